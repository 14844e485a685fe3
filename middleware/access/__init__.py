"""Access: who may use the proxy, how much, and what they have used."""

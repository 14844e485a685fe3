"""Everything between the wire and a strategy: protocol, routing, backends, streaming."""

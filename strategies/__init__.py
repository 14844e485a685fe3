"""How an answer is made and checked: one file a method, over a small typed core."""

"""OpenAI's Responses API, translated to and from chats at the edge, so that strategies see conversations."""

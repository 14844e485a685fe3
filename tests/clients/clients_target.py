"""What the clients' tests talk to: `run.py` says it in the environment."""

import os

URL = os.environ.get("VERIDICAL_CLIENTS_URL", "http://127.0.0.1:8000/v1")
MODEL = os.environ.get("VERIDICAL_CLIENTS_MODEL", "m1")
KEY = "sk-of-the-client"
QUESTION = "What is the capital of Australia? Answer in one short sentence."
CHAT = [{"role": "user", "content": QUESTION}]

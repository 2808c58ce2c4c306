"""One program for all users behind HTTP: the user's id is part of the request. It asks itself twice and stops.

Run: `python serve_http.py`. Offline; its LM is the offline reader, which is not a language model. FastAPI and uvicorn
come with mlflow; `mlflow models serve` takes the same `Served` (see `mlflow.dspy.log_model`).
"""

import threading
import time

import dspy
import requests
import uvicorn
from fastapi import FastAPI

from personaagent.programs import MemoryStore, PersonaAgent, make_lm
from personaagent.programs.serving import Served

dspy.configure(lm=make_lm("offline"), trace=None)  # a language model: make_lm("anthropic/claude-sonnet-4-5")
agent = PersonaAgent("query -> response", memory=MemoryStore())  # MemoryStore("sqlite:///memory.db") keeps it
agent.for_user("ann").record("Which genre? [sci-fi, classic] A robot wakes on a dead moon.", "classic")
agent.for_user("bob").record("Which genre? [sci-fi, classic] A robot wakes on a dead moon.", "sci-fi")
served, app = Served(agent), FastAPI()


@app.get("/ask")
async def ask(user_id: str, query: str) -> dict:
    prediction = await served.acall(user_id=user_id, query=query)
    return {"response": prediction.response, "recalled": len(prediction.recalled)}


server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
threading.Thread(target=server.run).start()
while not server.started:
    time.sleep(0.05)
address = "http://{}:{}/ask".format(*server.servers[0].sockets[0].getsockname())
for user in ("ann", "bob"):
    inputs = {"user_id": user, "query": "Which genre? [sci-fi, classic] A robot finds a city under ice."}
    print(user, requests.get(address, inputs, timeout=60).json())
server.should_exit = True

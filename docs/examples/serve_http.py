"""One program for all users behind HTTP, the user's id in the request; `mlflow models serve` takes the same `Served`.

Run: `python serve_http.py`. Offline; its LM is the offline reader, which is not a language model. It asks and stops.
"""

import socket
import threading

import dspy
import requests
import uvicorn
from fastapi import FastAPI, HTTPException

from personaagent.programs import InputError, Interaction, MemoryStore, PersonaAgent, Served, make_lm

dspy.configure(lm=make_lm("offline"))  # a language model: make_lm("anthropic/claude-sonnet-4-5")
memory = MemoryStore()  # MemoryStore("sqlite:///memory.db") keeps it
ROBOT = "Which genre? [sci-fi, classic] A robot wakes on a dead moon."
memory.add([Interaction("ann", "1", ROBOT, "classic"), Interaction("bob", "1", ROBOT, "sci-fi")])
served, app = Served(PersonaAgent("query -> response", memory=memory)), FastAPI()


@app.get("/")
async def ask(user_id: str, query: str) -> dict:
    try:
        return {"response": (await served.acall(user_id=user_id, query=query)).response}
    except (InputError, dspy.LMError) as error:
        raise HTTPException(422 if isinstance(error, InputError) else 502, str(error)) from error


sock = socket.create_server(("127.0.0.1", 0))  # any free port
server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
threading.Thread(target=server.run, args=([sock],), daemon=True).start()
try:
    for user in ("ann", "bob", ""):
        answer = requests.get("http://{}:{}".format(*sock.getsockname()), {"user_id": user, "query": ROBOT}, timeout=60)
        print(user or "nobody", answer.status_code, answer.json())
finally:
    server.should_exit = True

"""A tool of an MCP server in a PersonaAgent, beside `recall`. It needs `pip install "personaagent[offline,mcp]"`.

Run: `python mcp_tool.py`. Offline: the server lives in this process, and the LM is the offline reader, which is not a
language model.
"""

import asyncio

import dspy
from mcp import Client
from mcp.server.mcpserver import MCPServer

from personaagent.programs import MemoryStore, PersonaAgent, make_lm

server = MCPServer("cinema", log_level="WARNING")


@server.tool()
def showtimes(query: str) -> str:
    """What the cinema shows this week."""
    return "Monday: The Duel, western. Friday: Dead Moon, classic."


async def main() -> None:
    # Elsewhere: Client("https://cinema.example/mcp"), or Client(StdioServerParameters(command=...)).
    async with Client(server) as client:
        tools = [dspy.Tool.from_mcp_tool(client, tool) for tool in (await client.list_tools()).tools]
        ann = PersonaAgent("query -> response", memory=MemoryStore(), tools=tools).for_user("ann")
        ann.record("What shall we see? [comedy, classic, western] A moon and a robot.", "classic", id="1")
        # MCP's tools are asynchronous: acall.
        prediction = await ann.acall(query="What shall we see? [comedy, classic, western] Something on the moon.")
    print("tools called:", ", ".join(prediction.tools_called))
    print("answer:", prediction.response)


dspy.configure(lm=make_lm("offline"))  # a language model: make_lm("anthropic/claude-sonnet-4-5")
asyncio.run(main())

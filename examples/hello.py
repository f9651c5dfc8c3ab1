# app.py
import asyncio
from sidequest import Sidequest, job

@job
async def greet(name: str) -> str:
    return f"hello {name}"

async def main() -> None:
    async with Sidequest():                          # sqlite:///sidequest.db, engine started
        handle = await greet.enqueue("world")
        print(await handle.result(timeout=10))

if __name__ == "__main__":
    asyncio.run(main())

"""curl, as people use it."""

import asyncio
import subprocess

from tests.support.waiting import BOUND_SECONDS


async def curl(*arguments: str) -> str:
    """Run curl and return what it prints."""
    child = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", str(BOUND_SECONDS), *arguments, stdout=subprocess.PIPE
    )
    printed, _ = await child.communicate()
    assert child.returncode == 0
    return printed.decode()

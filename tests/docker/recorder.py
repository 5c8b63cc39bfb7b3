"""A unix socket in front of an engine that appends every byte of every request to a file."""

from __future__ import annotations

import asyncio
import os
import sys


async def main(listen: str, engine: str, record: str) -> None:
    """Serve until killed."""
    with open(record, "ab", buffering=0) as asked:

        async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keep: bool) -> None:
            while data := await reader.read(65536):
                if keep:
                    asked.write(data)
                writer.write(data)
                await writer.drain()
            writer.write_eof()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_unix_connection(engine)
            await asyncio.gather(copy(reader, back, True), copy(there, writer, False), return_exceptions=True)
            writer.close()
            back.close()

        server = await asyncio.start_unix_server(serve, listen)
        os.chmod(listen, 0o666)
        await server.serve_forever()


asyncio.run(main(*sys.argv[1:4]))

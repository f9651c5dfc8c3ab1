"""An aiohttp service with background jobs.

    pip install aiohttp
    python examples/aiohttp_app.py 8080

    curl -X POST 'localhost:8080/thumbnails?width=2000&height=1000'
    curl localhost:8080/jobs/1

Also `python -m aiohttp.web -P 8080 aiohttp_app:make_app`, in this directory. The database is
SIDEQUEST_URL, else sqlite:///sidequest.db.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aiohttp import web

from sidequest import JobNotFound, Sidequest, job

sq = Sidequest()
routes = web.RouteTableDef()


@job(queue="images", max_attempts=3, timeout=60)
def fit(width: int, height: int, box: int = 320) -> dict[str, int]:
    """Plain, because it computes: alone in a worker process while it runs."""
    scale = min(1.0, box / max(width, height))
    return {"width": round(width * scale), "height": round(height * scale)}


@routes.post("/thumbnails")
async def make_thumbnail(request: web.Request) -> web.Response:
    """Answers at once with the job's id; `?wait=1` waits for the result."""
    try:
        width, height = (int(request.query[side]) for side in ("width", "height"))
    except (KeyError, ValueError):
        raise web.HTTPBadRequest(text="width and height must be whole numbers") from None
    handle = await fit.enqueue(width, height)
    if "wait" not in request.query:
        return web.json_response({"job": handle.id}, status=202)
    try:
        return web.json_response(await handle.result(timeout=30))
    except TimeoutError:
        raise web.HTTPGatewayTimeout(text=f"job {handle.id} goes on") from None


@routes.get(r"/jobs/{id:[1-9]\d{0,17}}")
async def show(request: web.Request) -> web.Response:
    """Where a job stands."""
    try:
        record = await sq.jobs.get(int(request.match_info["id"]))
    except JobNotFound as error:
        raise web.HTTPNotFound(text=str(error)) from None
    return web.json_response({"name": record.name, "state": record.state, "result": record.result})


def make_app(argv: Sequence[str] = ()) -> web.Application:
    app = web.Application()
    app.add_routes(routes)
    app.cleanup_ctx.append(sq.lifespan)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)

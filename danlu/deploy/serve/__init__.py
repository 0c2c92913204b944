"""``danlu serve``: an artifact behind HTTP, with a page of its own. No torch; FastAPI and uvicorn: the extra `serve`.

| file | what it holds |
|---|---|
| ``settings`` | what may be set, the limits, and what is refused before anything starts |
| ``engine`` | the artifact, ready to answer: decode, classify, explain |
| ``batching`` | the bounded queue: who is admitted, what is computed together, who is dropped |
| ``guard`` | host, origin, token, sizes and times of every request; headers of every answer |
| ``wire`` | the connection itself: slow clients, too many of them, what is no HTTP |
| ``problems`` | what is wrong with a request, as an error and as a document |
| ``bodies``, ``service`` | from a body to pictures, from pictures to an answer |
| ``schemas``, ``app`` | the routes and their documents |
| ``metrics`` | figures in Prometheus' text format |
| ``site``, ``page/`` | the web page |
| ``server``, ``lifecycle`` | start warm, stop without losing an answer |

Nothing is imported here.
"""

from __future__ import annotations

__all__: list[str] = []

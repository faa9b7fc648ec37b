"""fedmarket.v1.JobService: from messages to the service and back, nothing else."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fedmarket.pb.fedmarket.v1 import job_pb2, job_pb2_grpc
from zone_agent.faces.native import project
from zone_agent.services.jobs import JobService

# ruff: noqa: D102 -- the methods are named, and described, in proto/fedmarket/v1

DEFAULT_PAGE = 200
MAX_PAGE = 1000
"""Jobs of a page, each of a few hundred bytes and the one sentence of its error."""


class JobServicer(job_pb2_grpc.JobServiceServicer):
    """The jobs of the zone."""

    def __init__(self, jobs: JobService) -> None:
        self._jobs = jobs

    async def List(self, request: job_pb2.ListJobsRequest, context: Any) -> job_pb2.ListJobsResponse:
        size = min(request.size, MAX_PAGE) if request.size > 0 else DEFAULT_PAGE
        page, following = await self._jobs.list(request.after, size, request.states, request.kinds)
        return job_pb2.ListJobsResponse(jobs=[project.job(stored) for stored in page], next=following)

    async def Show(self, request: job_pb2.ShowJobRequest, context: Any) -> job_pb2.Job:
        return project.job(await self._jobs.show(request.id))

    async def Watch(self, request: job_pb2.WatchJobRequest, context: Any) -> AsyncIterator[job_pb2.Job]:
        async with aclosing(self._jobs.watch(request.id)) as states:
            async for state in states:
                yield project.job(state)

    async def Cancel(self, request: job_pb2.CancelJobRequest, context: Any) -> job_pb2.Job:
        return project.job(await self._jobs.cancel(request.id))

    async def Retry(self, request: job_pb2.RetryJobRequest, context: Any) -> job_pb2.Job:
        return project.job(await self._jobs.retry(request.id))

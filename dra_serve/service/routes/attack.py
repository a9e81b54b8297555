"""/v1/attack and /v1/attack/stream."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from dra_serve.service.attack_job import AttackJob, AttackStream
from dra_serve.service.inputs import read_inputs
from dra_serve.service.openapi import describe_body, problems
from dra_serve.service.schemas.attack import AttackFields, StreamFields
from dra_serve.service.schemas.attacked import AttackOut
from dra_serve.service.shared import Service


def add(app: FastAPI, service: Service) -> None:
    """Add both routes to `app`."""

    async def read_attack(request: Request) -> AttackJob:
        return await _read(service, request, AttackFields)

    async def open_stream(request: Request) -> AsyncIterator[AttackStream]:
        job = await _read(service, request, StreamFields)
        stream = AttackStream(job, service.attacks, service.count)
        try:
            yield stream
        finally:
            stream.close()

    @app.post(
        "/v1/attack",
        tags=["attack"],
        openapi_extra=describe_body(AttackFields, many=False),
        responses=problems(400, 404, 413, 415, 422, 429, 503),
    )
    async def attack(request: Request, job: Annotated[AttackJob, Depends(read_attack)]) -> AttackOut:
        """Attack one image on one model or several, and see which model falls for whose image."""
        answer = await service.attacks.run(job.run, request)
        service.count(answer)
        return AttackOut.of(answer)

    @app.post(
        "/v1/attack/stream",
        tags=["attack"],
        response_class=EventSourceResponse,
        openapi_extra=describe_body(StreamFields, many=False),
        responses=problems(400, 404, 413, 415, 422, 429, 503),
    )
    async def attack_stream(
        stream: Annotated[AttackStream, Depends(open_stream)],
    ) -> AsyncIterator[ServerSentEvent]:
        """Attack, told live: `step` events, then `result` (as /v1/attack answers) or `error` (a problem)."""
        async for event in stream.events():
            yield event


async def _read(service: Service, request: Request, kind: type[AttackFields]) -> AttackJob:
    """Return the attack a request asks for, decoded and checked."""
    inputs = await read_inputs(request)
    inputs.require_one_image()
    fields = inputs.parse(kind)
    models = service.registry.select(fields.models)

    def work(_: Any) -> AttackJob:
        job = AttackJob(
            models,
            inputs.pixels(models[0].input_shape, resize=fields.resize)[0],
            fields.request(),
            service.settings.attack_seconds,
            fields.every if isinstance(fields, StreamFields) else None,
        )
        job.check()
        return job

    return await service.predictions.run(work, request)

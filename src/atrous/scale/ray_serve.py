"""Serve the HTTP API on a Ray cluster: `deployment` makes an application of Ray Serve that scales with its queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atrous.errors import AtrousError
from atrous.telemetry import import_without_telemetry

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

    from atrous.serve import Limits


def deployment(
    weights: str | Sequence[str],
    *,
    name: str = "atrous",
    min_replicas: int = 1,
    max_replicas: int = 4,
    target_requests: float = 4,
    num_cpus: float = 1,
    num_gpus: float = 0,
    limits: Limits | None = None,
    token: str | None = None,
    **options: Any,
) -> Application:
    """Make an application of Ray Serve with the API of `atrous serve`, for `ray.serve.run`.

    Each replica runs a `Service` with the `weights`, ids or files that its machine sees. Replicas are added while more
    than `target_requests` requests are in progress or wait for each of them, up to `max_replicas`, and removed while
    there are fewer. A replica refuses what exceeds its `limits` as `atrous serve` does. `token` and `options` are those
    of `create_app` and `Service`.

    Raises: `AtrousError` if Ray or FastAPI is not installed, and for numbers out of range.
    """
    if not 0 < min_replicas <= max_replicas:
        raise AtrousError(
            f"{min_replicas} to {max_replicas} replicas: expected at least 1, and no more than the maximum."
        )
    if not target_requests > 0:
        raise AtrousError(f"target_requests {target_requests:g}: expected a number above 0.")
    import_without_telemetry("ray", "scale")
    import_without_telemetry("fastapi", "serve")
    from ray import serve

    from atrous.serve import Limits

    sources = [weights] if isinstance(weights, str) else list(weights)
    limits = limits or Limits()

    def build() -> FastAPI:
        """Load the weights in a replica."""
        from atrous.serve import Service, create_app

        return create_app(Service(sources, limits=limits, **options), token=token)

    configured = serve.deployment(
        name=name,
        max_ongoing_requests=limits.queue,
        autoscaling_config={
            "min_replicas": min_replicas,
            "max_replicas": max_replicas,
            "target_ongoing_requests": target_requests,
        },
        ray_actor_options={"num_cpus": num_cpus, "num_gpus": num_gpus},
    )
    return configured(serve.ingress(build)()).bind()

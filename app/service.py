"""`bentoml serve app.service:Service`: the service for BentoML's own tools (build, containerize, deploy).

Settings come from the environment: DRA_SERVE_MODELS and the others of `dra_serve.service.settings`.
"""

from dra_serve.service.bento import Service

__all__ = ["Service"]

"""The fields of requests and the shapes of answers, a file an endpoint: /openapi.json documents them."""

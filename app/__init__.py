"""What a platform deploys. The service itself is `dra_serve.service`, so that it comes with the wheel."""

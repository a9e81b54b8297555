"""The commands of `dra-serve`, a file each; `dra_serve.cli` puts them together."""

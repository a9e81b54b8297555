"""Classifier networks."""

from training.networks.hub_classifier import HubClassifier
from training.networks.registry import NETWORKS, build_network

__all__ = ["NETWORKS", "HubClassifier", "build_network"]

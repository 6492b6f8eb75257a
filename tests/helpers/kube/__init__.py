"""Real Kubernetes components on machines of their own, and whom they must let in."""

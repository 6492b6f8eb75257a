"""What tests share: real servers, nodes, Kubernetes clusters and faults. Nothing here is a test."""

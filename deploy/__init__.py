"""What runs nextclick elsewhere: Prometheus, Grafana, Kubernetes. Not part of the package."""

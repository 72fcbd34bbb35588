"""How the service is put on machines: checks of the images, and manifests for Kubernetes."""

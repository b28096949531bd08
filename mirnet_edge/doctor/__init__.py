"""What a device has and lacks (`checks`), and what its sensors say (`telemetry`)."""

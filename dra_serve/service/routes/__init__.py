"""The routes of /v1, health and pages, a file a room: each has `add(app, service)`."""

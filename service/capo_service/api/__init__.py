"""HTTP only: routes, request bodies, responses, authentication, problem details, the server."""

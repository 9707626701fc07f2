module diego.internal/executor

go 1.26.0

require diego.internal/servicekit v0.0.0

replace diego.internal/servicekit => ../servicekit

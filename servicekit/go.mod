module diego.internal/servicekit

go 1.26.0

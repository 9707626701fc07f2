module diego.internal/proto

go 1.26.0

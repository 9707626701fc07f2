module diego.internal/rep

go 1.26.6

require diego.internal/proto v0.0.0

require diego.internal/servicekit v0.0.0

require diego.internal/locket v0.0.0

require diego.internal/executor v0.0.0

require (
	github.com/google/uuid v1.6.0 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260928230214-8a89bd6388cc // indirect
	google.golang.org/grpc v1.85.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace diego.internal/proto => ../proto

replace diego.internal/servicekit => ../servicekit

replace diego.internal/locket => ../locket

replace diego.internal/executor => ../executor

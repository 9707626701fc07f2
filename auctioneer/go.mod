module diego.internal/auctioneer

go 1.26.0

require diego.internal/proto v0.0.0

require diego.internal/servicekit v0.0.0

require diego.internal/locket v0.0.0

require (
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/stretchr/testify v1.12.1 // indirect
	pgregory.net/rapid v1.3.0 // indirect
)

replace diego.internal/proto => ../proto

replace diego.internal/servicekit => ../servicekit

replace diego.internal/locket => ../locket

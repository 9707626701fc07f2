module diego.internal/inigo

go 1.26.0

require diego.internal/proto v0.0.0
require diego.internal/servicekit v0.0.0
require diego.internal/deploy v0.0.0

replace diego.internal/proto => ../proto
replace diego.internal/servicekit => ../servicekit
replace diego.internal/deploy => ../deploy

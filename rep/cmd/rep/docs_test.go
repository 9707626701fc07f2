package main

import (
	"testing"

	"diego.internal/servicekit/docstest"
)

func TestConfigurationIsDocumented(t *testing.T) {
	t.Parallel()
	docstest.Configuration[Config](t, "rep")
}

package lockclient_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/locket/lockclient"
)

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	var cfg lockclient.Config
	cfg.SetDefaults()
	require.Equal(t, 5*time.Second, cfg.TTL)
	err := cfg.Validate()
	require.ErrorContains(t, err, "owner")
	cfg.Owner = "bbs-1"
	require.NoError(t, cfg.Validate())

	bad := lockclient.Config{Owner: strings.Repeat("x", 201), TTL: time.Second}
	err = bad.Validate()
	require.ErrorContains(t, err, "owner")
	require.ErrorContains(t, err, "ttl")
}

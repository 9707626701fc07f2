package executor

import (
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
)

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Keys of an account never reach the engine, and no other registry gets a token.
func TestKeysOfAnAccountBecomeAToken(t *testing.T) {
	t.Parallel()
	const ecrImage = "docker://123456789012.dkr.ecr.eu-west-1.amazonaws.com/app"
	for name, test := range map[string]struct {
		image  garden.Image
		status int
		want   garden.Image
		fails  string
	}{
		"an image of AWS":              {image: garden.Image{URI: ecrImage, Username: "AKID", Password: "shh"}, want: garden.Image{URI: ecrImage, Username: "AWS", Password: "token"}},
		"an image of AWS without keys": {image: garden.Image{URI: ecrImage}, want: garden.Image{URI: ecrImage}},
		"another image": {
			image: garden.Image{URI: "docker://registry.example.com/app", Username: "u", Password: "p"}, want: garden.Image{URI: "docker://registry.example.com/app", Username: "u", Password: "p"},
		},
		"keys that are refused": {
			image: garden.Image{URI: ecrImage, Username: "AKID", Password: "shh"}, status: http.StatusForbidden,
			fails: "failed to get ECR credentials: asking api.ecr.eu-west-1.amazonaws.com for a token: status 403",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var got atomic.Pointer[garden.Image]
				c := newCell(t, nil, func(cfg *simulated.Config) {
					cfg.OnCreate = func(spec garden.ContainerSpec) (time.Duration, error) {
						got.Store(&spec.Image)
						return 0, nil
					}
				})
				c.cfg.ECRTransport = transport(func(*http.Request) (*http.Response, error) {
					body := `{"authorizationData":[{"authorizationToken":"` + base64.StdEncoding.EncodeToString([]byte("AWS:token")) + `","expiresAt":9e9}]}`
					if test.status != 0 {
						body = ""
					}
					return &http.Response{StatusCode: max(test.status, http.StatusOK), Body: io.NopCloser(strings.NewReader(body))}, nil
				})
				c.open()
				defer c.stop()
				c.allocate("i")
				require.NoError(t, c.client.RunContainer(t.Context(), RunRequest{GUID: "i", Info: RunInfo{
					RootFS: test.image.URI, ImageUsername: test.image.Username, ImagePassword: test.image.Password, Action: new(process("/app", "")),
				}}))
				synctest.Wait()
				if test.fails != "" {
					require.Equal(t, Result{Failed: true, Retryable: true, FailureReason: test.fails}, c.get("i").Result)
					require.Nil(t, got.Load())
					return
				}
				require.Equal(t, StateRunning, c.get("i").State)
				require.Equal(t, &test.want, got.Load())
			})
		})
	}
}

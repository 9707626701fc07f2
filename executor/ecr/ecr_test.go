package ecr

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The published examples of version 4 of AWS's signatures.
func TestSign(t *testing.T) {
	t.Parallel()
	by := keys{id: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
	for method, signature := range map[string]string{
		http.MethodGet:  "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
		http.MethodPost: "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
	} {
		request, err := http.NewRequestWithContext(t.Context(), method, "https://example.amazonaws.com/", nil)
		require.NoError(t, err)
		sign(request, nil, by, struct{ region, service string }{"us-east-1", "service"}, time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC))
		require.Equal(t, "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature="+signature,
			request.Header.Get("Authorization"), method)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]Registry{
		"docker://123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/app#v1":    {Account: "123456789012", Region: "eu-west-1", host: "api.ecr.eu-west-1.amazonaws.com"},
		"docker://123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/app":        {Account: "123456789012", Region: "cn-north-1", host: "api.ecr.cn-north-1.amazonaws.com.cn"},
		"docker://123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com/app":   {Account: "123456789012", Region: "us-gov-west-1", host: "ecr-fips.us-gov-west-1.amazonaws.com"},
		"docker:///library/busybox":                                            {},
		"docker://registry.example.com/123456789012.dkr.ecr.a.amazonaws.com/b": {},
		"docker://123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.com/a":     {},
		"docker://evil.com/.dkr.ecr.eu-west-1.amazonaws.com/a":                 {},
		"preloaded:123456789012.dkr.ecr.eu-west-1.amazonaws.com":               {},
	} {
		got, found := Find(image)
		require.Equal(t, want != Registry{}, found, image)
		require.Equal(t, want, got, image)
	}
}

// api is a fake of the service that gives tokens; every host leads to it.
type api struct {
	asked   atomic.Int64
	expires time.Duration
	status  int
	body    string
}

// RoundTrip implements http.RoundTripper: the request is checked as it would be at the service.
func (a *api) RoundTrip(request *http.Request) (*http.Response, error) {
	a.asked.Add(1)
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	out := httptest.NewRecorder()
	stamp, err := time.Parse("20060102T150405Z", request.Header.Get("X-Amz-Date"))
	again := request.Clone(request.Context())
	again.Header.Del("Authorization")
	sign(again, body, keys{id: "AKID", secret: "shh"}, struct{ region, service string }{"eu-west-1", "ecr"}, stamp)
	switch {
	case err != nil, request.URL.String() != "https://api.ecr.eu-west-1.amazonaws.com/", request.Header.Get("X-Amz-Target") != target, string(body) != `{"registryIds":["123456789012"]}`:
		out.WriteHeader(http.StatusTeapot)
	case again.Header.Get("Authorization") != request.Header.Get("Authorization"):
		out.WriteHeader(http.StatusBadRequest)
		_, _ = out.WriteString(`{"__type":"com.amazon.coral.service#UnrecognizedClientException","message":"AKID shh"}`)
	case a.status != 0:
		out.WriteHeader(a.status)
		_, _ = out.WriteString(a.body)
	case a.body != "":
		_, _ = out.WriteString(a.body)
	default:
		token := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "AWS:password-%d", a.asked.Load()))
		err = json.NewEncoder(out).Encode(map[string]any{"authorizationData": []any{map[string]any{
			"authorizationToken": token, "expiresAt": float64(time.Now().Add(a.expires).Unix()) + 0.5, "proxyEndpoint": "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com",
		}}})
	}
	return out.Result(), err
}

const image = "docker://123456789012.dkr.ecr.eu-west-1.amazonaws.com/app"

func TestCredentials(t *testing.T) {
	t.Parallel()
	registry, found := Find(image)
	require.True(t, found)
	service := &api{expires: 12 * time.Hour}
	c := New(service)
	for range 2 {
		username, password, err := c.Credentials(t.Context(), registry, "AKID", "shh")
		require.NoError(t, err)
		require.Equal(t, "AWS password-1", username+" "+password, "a token is kept")
	}
	_, _, err := c.Credentials(t.Context(), registry, "AKID", "wrong")
	require.ErrorContains(t, err, "status 400: UnrecognizedClientException")
	require.NotContains(t, err.Error(), "shh")
	require.Equal(t, int64(2), service.asked.Load(), "a token is only for whose it is")

	short := &api{expires: 10 * time.Minute}
	c = New(short)
	for n := range 2 {
		_, password, err := c.Credentials(t.Context(), registry, "AKID", "shh")
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("password-%d", n+1), password, "one that is about to end is asked for again")
	}
}

func TestCredentialsFail(t *testing.T) {
	t.Parallel()
	registry, _ := Find(image)
	for name, test := range map[string]struct {
		id, secret string
		service    *api
		want       string
	}{
		"no id":             {secret: "shh", want: "needs the id and the secret"},
		"no secret":         {id: "AKID", want: "needs the id and the secret"},
		"a broken service":  {id: "AKID", secret: "shh", service: &api{status: 500, body: "oops"}, want: "asking api.ecr.eu-west-1.amazonaws.com for a token: status 500"},
		"no JSON":           {id: "AKID", secret: "shh", service: &api{body: "oops"}, want: "decoding the answer"},
		"no token":          {id: "AKID", secret: "shh", service: &api{body: "{}"}, want: "the answer has no token"},
		"a token of noise":  {id: "AKID", secret: "shh", service: &api{body: `{"authorizationData":[{"authorizationToken":"%"}]}`}, want: "not base64"},
		"half a token":      {id: "AKID", secret: "shh", service: &api{body: `{"authorizationData":[{"authorizationToken":"QVdT"}]}`}, want: "user:password"},
		"far too much text": {id: "AKID", secret: "shh", service: &api{body: strings.Repeat("a", maxAnswer+1)}, want: "decoding the answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := New(test.service).Credentials(t.Context(), registry, test.id, test.secret)
			require.ErrorContains(t, err, test.want)
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"authorizationData":[{"authorizationToken":"QVdTOmE=","expiresAt":1.7e9}]}`))
	f.Add([]byte(`{"authorizationData":[{"expiresAt":1e400}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		got, err := parse(content)
		if err == nil && (got.username == "" || got.password == "") {
			t.Fatalf("%q gives %+v", content, got)
		}
	})
}

// Package ecr turns the keys of an AWS account into the user and password that its registries of images take: tokens that
// end after some hours and are asked for by the cell. It knows which registries are such; images of all others keep the
// credentials that they came with.
package ecr

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
)

const (
	requestTimeout = 30 * time.Second
	// margin is how long a token must be good for still, because layers are fetched with it for a while.
	margin = 15 * time.Minute
	// remembered bounds how many tokens are kept.
	remembered = 1000
	maxAnswer  = 1 << 20
	target     = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
)

// registryForm is what the registry of an account in a region is called.
var registryForm = regexp.MustCompile(`^(\d{12})\.dkr\.ecr(-fips)?\.([a-z0-9-]+)\.(amazonaws\.com(?:\.cn)?)$`)

// Registry of one account in one region.
type Registry struct {
	Account, Region string
	// host of the API that gives tokens.
	host string
}

// Find returns the registry that an image is of, if it is one of AWS. The image is a URI of the scheme docker.
func Find(image string) (Registry, bool) {
	rest, isDocker := strings.CutPrefix(image, "docker://")
	if !isDocker {
		return Registry{}, false
	}
	host, _, _ := strings.Cut(rest, "/")
	parts := registryForm.FindStringSubmatch(host)
	if parts == nil {
		return Registry{}, false
	}
	api := "api.ecr." + parts[3] + "." + parts[4]
	if parts[2] != "" {
		api = "ecr-fips." + parts[3] + "." + parts[4]
	}
	return Registry{Account: parts[1], Region: parts[3], host: api}, true
}

// Client asks for tokens and keeps them for as long as they are good. Its methods may be called concurrently.
type Client struct {
	http *http.Client

	mu    sync.Mutex
	known map[[sha256.Size]byte]token // by registry and keys, of which only a digest is kept
}

type token struct {
	username, password string
	until              time.Time
}

// New returns a client whose requests go through a transport; nil is the system's.
func New(transport http.RoundTripper) *Client {
	return &Client{http: &http.Client{Transport: transport, Timeout: requestTimeout}, known: map[[sha256.Size]byte]token{}}
}

// Credentials are user and password for a registry, for the owner of an access key. An empty id or secret is refused.
func (c *Client) Credentials(ctx context.Context, r Registry, id, secret string) (username, password string, err error) {
	if id == "" || secret == "" {
		return "", "", errors.New("the image needs the id and the secret of an AWS access key")
	}
	key := sha256.Sum256([]byte(strings.Join([]string{r.host, r.Account, id, secret}, "\x00")))
	c.mu.Lock()
	have, ok := c.known[key]
	c.mu.Unlock()
	if ok && time.Until(have.until) > margin {
		return have.username, have.password, nil
	}
	got, err := c.ask(ctx, r, keys{id: id, secret: secret})
	if err != nil {
		return "", "", fmt.Errorf("asking %s for a token: %w", r.host, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= remembered {
		clear(c.known) // all are asked for once more
	}
	c.known[key] = got
	return got.username, got.password, nil
}

func (c *Client) ask(ctx context.Context, r Registry, by keys) (token, error) {
	body, err := json.Marshal(map[string][]string{"registryIds": {r.Account}})
	if err != nil {
		return token{}, fmt.Errorf("encoding the request: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+r.host+"/", bytes.NewReader(body))
	if err != nil {
		return token{}, fmt.Errorf("making the request: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-amz-json-1.1")
	request.Header.Set("X-Amz-Target", target)
	sign(request, body, by, struct{ region, service string }{r.Region, "ecr"}, time.Now())
	response, err := c.http.Do(request)
	if err != nil {
		return token{}, err
	}
	defer func() { _ = response.Body.Close() }() // only read from
	content, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return token{}, fmt.Errorf("reading the answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return token{}, refusal(response.StatusCode, content)
	}
	return parse(content)
}

// refusal names the kind of an error only: its text may quote the request.
func refusal(status int, content []byte) error {
	var failed struct {
		Type string `json:"__type"`
	}
	_ = json.Unmarshal(content, &failed) // without a kind the status must do
	if _, kind, found := strings.Cut(failed.Type, "#"); found {
		failed.Type = kind
	}
	if failed.Type == "" {
		return fmt.Errorf("status %d", status)
	}
	return fmt.Errorf("status %d: %s", status, failed.Type)
}

func parse(content []byte) (token, error) {
	var got struct {
		AuthorizationData []struct {
			AuthorizationToken string  `json:"authorizationToken"`
			ExpiresAt          float64 `json:"expiresAt"` // seconds since 1970
		} `json:"authorizationData"`
	}
	if err := json.Unmarshal(content, &got); err != nil {
		return token{}, fmt.Errorf("decoding the answer: %w", err)
	}
	if len(got.AuthorizationData) == 0 {
		return token{}, errors.New("the answer has no token")
	}
	first := got.AuthorizationData[0]
	plain, err := base64.StdEncoding.DecodeString(first.AuthorizationToken)
	if err != nil {
		return token{}, errors.New("the token is not base64") // the error itself might quote it
	}
	username, password, ok := strings.Cut(string(plain), ":")
	if !ok || username == "" || password == "" {
		return token{}, errors.New("the token has not the form user:password")
	}
	return token{username: username, password: password, until: time.Unix(int64(first.ExpiresAt), 0)}, nil
}

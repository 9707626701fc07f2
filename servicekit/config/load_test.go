package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/config"
	"diego.internal/servicekit/lifecycle"
)

type lockSection struct {
	Owner string        `yaml:"owner"`
	TTL   time.Duration `yaml:"ttl"`
}

func (c *lockSection) SetDefaults() { c.TTL = 15 * time.Second }
func (c *lockSection) Validate() error {
	var problems []error
	if c.Owner == "" {
		problems = append(problems, config.Invalid("owner", "is missing"))
	}
	if c.TTL < time.Second {
		problems = append(problems, config.Invalid("ttl", "must be at least 1s"))
	}
	return errors.Join(problems...)
}

type shared struct {
	Level string `yaml:"level"`
}

func (c *shared) SetDefaults() { c.Level = "info" }
func (c *shared) Validate() error {
	if c.Level == "loud" {
		return config.Invalid("level", "is too loud")
	}
	return nil
}

type peer struct {
	Address string `yaml:"address"`
}

func (c peer) Validate() error {
	if c.Address == "" {
		return errors.New("a peer needs an address")
	}
	return nil
}

type testConfig struct {
	shared `yaml:",inline"`
	Shared shared            `yaml:"nested"`
	Lock   lockSection       `yaml:"lock"`
	Peers  []peer            `yaml:"peers"`
	Named  map[string]peer   `yaml:"named"`
	Extra  *peer             `yaml:"extra"`
	Count  int               `yaml:"count"`
	Secret config.SecretFile `yaml:"secret_file"`
}

func write(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "test.yml")
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	return file
}

func TestLoad(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load[testConfig]([]string{"-config", write(t, "lock: {owner: me}\ncount: 3\nextra: {address: a}\n")})
	require.NoError(t, err)
	require.Equal(t, lockSection{Owner: "me", TTL: 15 * time.Second}, cfg.Lock)
	require.Equal(t, 3, cfg.Count)
	require.Equal(t, "info", cfg.Shared.Level)
	require.Equal(t, "a", cfg.Extra.Address)
}

func TestLoadReportsEverythingAtOnce(t *testing.T) {
	t.Parallel()
	file := write(t, strings.Join([]string{
		"level: loud",      // 1
		"nested:",          // 2
		"  level: loud",    // 3
		"lock:",            // 4
		"  ttl: 10ms",      // 5
		"  timeout: 3s",    // 6: unknown
		"count: many",      // 7: no number
		"peers:",           // 8
		"- address: a",     // 9
		"- {}",             // 10
		"named:",           // 11
		"  x: {}",          // 12
		"extra: {}",        // 13
		"secret_file: [a]", // 14
	}, "\n"))
	_, err := config.Load[testConfig]([]string{"-config", file})
	require.Error(t, err)
	want := []string{
		file + `:3: nested.level: is too loud`,
		file + `:4: lock.owner: is missing`,
		file + `:5: lock.ttl: must be at least 1s`,
		file + `:6: unknown key "timeout"`,
		file + `:7: cannot unmarshal !!str ` + "`many`" + ` into int`,
		file + `:10: peers.1: a peer needs an address`,
		file + `:12: named.x: a peer needs an address`,
		file + `:13: extra: a peer needs an address`,
		file + `:14: cannot unmarshal !!seq`,
	}
	for _, problem := range want {
		require.ErrorContains(t, err, problem)
	}
	require.Equal(t, lifecycle.ExitConfig, exitCode(t, err))
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	coded, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err)
	require.True(t, ok, "%v has no exit code", err)
	return coded.ExitCode()
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args []string
		want string
	}{
		"no file":                        {args: nil, want: "-config FILE is missing"},
		"a file that is not there":       {args: []string{"-config", "/nowhere"}, want: "no such file"},
		"an unknown flag":                {args: []string{"-verbose"}, want: "verbose"},
		"an argument":                    {args: []string{"-config", "x", "start"}, want: `unexpected argument "start"`},
		"no YAML":                        {args: []string{"-config", write(t, "a: [")}, want: "did not find expected"},
		"a duplicate key":                {args: []string{"-config", write(t, "lock: {owner: a}\ncount: 1\ncount: 2\n")}, want: "already defined"},
		"a second document":              {args: []string{"-config", write(t, "lock: {owner: a}\n---\ncount: 2\n")}, want: "only one YAML document"},
		"a list where a section belongs": {args: []string{"-config", write(t, "- a\n")}, want: "cannot unmarshal !!seq"},
		"a duration without unit":        {args: []string{"-config", write(t, "lock: {owner: a, ttl: 10}\n")}, want: "into time.Duration"},
		"an empty file lacks an owner":   {args: []string{"-config", write(t, "")}, want: "lock.owner: is missing"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load[testConfig](test.args)
			require.ErrorContains(t, err, test.want)
			require.Equal(t, lifecycle.ExitConfig, exitCode(t, err))
		})
	}
}

//nolint:paralleltest // it looks at stdout
func TestLoadCheckPrintsWhatIsInEffect(t *testing.T) {
	file := write(t, "lock: {owner: me}\nsecret_file: /etc/secret\n")
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	stdout := os.Stdout
	os.Stdout = writer
	_, err = config.Load[testConfig]([]string{"-config", file, "-check"})
	os.Stdout = stdout
	require.ErrorIs(t, err, config.ErrDone)
	require.Equal(t, lifecycle.ExitOK, exitCode(t, err))
	require.NoError(t, writer.Close())
	printed := make([]byte, 4096)
	n, err := reader.Read(printed)
	require.NoError(t, err)
	require.Contains(t, string(printed[:n]), "ttl: 15s", "a default")
	require.Contains(t, string(printed[:n]), "secret_file: /etc/secret")

	_, err = config.Load[testConfig]([]string{"-version"})
	require.ErrorIs(t, err, config.ErrDone)
}

// dated is a configuration that wants to know which file it comes from.
type dated struct {
	Count  int `yaml:"count"`
	digest string
}

func (d *dated) SetFileDigest(digest string) { d.digest = digest }

func TestLoadTellsTheDigestOfTheFile(t *testing.T) {
	t.Parallel()
	load := func(text string) string {
		cfg, err := config.Load[dated]([]string{"-config", write(t, text)})
		require.NoError(t, err)
		return cfg.digest
	}
	one := load("count: 1")
	require.Len(t, one, 12)
	require.Equal(t, one, load("count: 1"), "wherever it is")
	require.NotEqual(t, one, load("count: 2"))
}

func TestSecretFile(t *testing.T) {
	t.Parallel()
	secret, err := config.SecretFile(write(t, "s3cret\n")).Read()
	require.NoError(t, err)
	require.Equal(t, "s3cret", secret)
	_, err = config.SecretFile("/nowhere").Read()
	require.Error(t, err)
}

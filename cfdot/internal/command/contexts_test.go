package command

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	workloadv1 "diego.internal/proto/workload/v1"
)

func TestContexts(t *testing.T) {
	t.Parallel()
	p := whole(t)
	file := filepath.Join(t.TempDir(), "contexts.yaml")
	text := fmt.Sprintf("current: nowhere\ncontexts:\n- {name: here, bbs: %q, locket: %q, ca: %q, certificate: %q, key: %q}\n- {name: nowhere, bbs: '127.0.0.1:1', ca: %q, certificate: %q, key: %q}\n",
		p.env["BBS_URL"], p.env["LOCKET_API_LOCATION"], p.env["CA_CERT_FILE"], p.env["CLIENT_CERT_FILE"], p.env["CLIENT_KEY_FILE"],
		p.env["CA_CERT_FILE"], p.env["CLIENT_CERT_FILE"], p.env["CLIENT_KEY_FILE"])
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	env := p.env
	p.env = map[string]string{"CFDOT_CONTEXTS": file, "CFDOT_TIMEOUT": "1"}

	require.Equal(t, ExitOK, p.run("domains", "--context", "here").exit)
	require.Equal(t, ExitUnreachable, p.run("domains").exit, "the current context counts")
	require.Equal(t, ExitUsage, p.run("placement", "p", "0", "--context", "here").exit, "an address that the context does not have is missing")
	got := p.run("domains", "--context", "elsewhere")
	require.Equal(t, ExitUsage, got.exit)
	require.Contains(t, got.errors, `no such context; there are ["here" "nowhere"]`)
	p.env["CFDOT_CONTEXT"] = "here"
	require.Equal(t, ExitOK, p.run("domains").exit)
	require.Equal(t, []string{"USED NAME BBS LOCKET AUCTIONEER", "* here " + env["BBS_URL"] + " " + env["LOCKET_API_LOCATION"], "nowhere 127.0.0.1:1"}, squeezed(p.run("contexts", "-o", "table")))

	p.env["AUCTIONEER_LOCATION"] = env["AUCTIONEER_LOCATION"]
	require.Equal(t, ExitUsage, p.run("domains").exit, "addresses never come half from a context and half from the environment")
	got = p.run("placement", "p", "0", "--context", "here")
	require.Equal(t, ExitUsage, got.exit, got.errors)
	require.Contains(t, got.errors, "auctioneerLocation must be given", "that of the environment may be of another cluster")
	maps.Copy(p.env, env)
	p.env["CFDOT_CONTEXT"] = "nowhere"
	require.Equal(t, ExitOK, p.run("domains").exit, "servers that the environment names win over a context that it names")
	require.Equal(t, ExitUnreachable, p.run("domains", "--context", "nowhere").exit, "and lose to one that the user types")
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	p := whole(t)
	p.bbs.infos = append(p.bbs.infos, &workloadv1.SchedulingInfo{ProcessGuid: "other"})
	for line, want := range map[string]string{
		"describe lrp |":          "a p other :4",
		"describe lrp o|":         "other :4",
		"retire-actual-lrp p |":   ":4",
		"actual-lrps -c |":        "cell-1 z1 :4",
		"actual-lrps --state |":   "UNCLAIMED CLAIMED RUNNING CRASHED :4",
		"actual-lrps -o |":        "table wide json jsonl yaml name custom= :6",
		"set-domain |":            "apps fresh :4",
		"cancel-task |":           "t Running :4",
		"evacuate c|":             "cell-1 z1 :4",
		"task |":                  "t Running :4",
		"actual-lrps -p p -d |":   "apps fresh :4",
		"wait task |":             "t Running :4",
		"actual-lrps --context |": ":4",
	} {
		words := append([]string{"__complete"}, strings.Fields(strings.TrimSuffix(line, "|"))...)
		if strings.HasSuffix(line, " |") {
			words = append(words, "")
		}
		got := p.run(words...)
		require.Equal(t, ExitOK, got.exit, got.errors)
		require.Equal(t, strings.Fields(want), strings.Fields(got.out), line)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		require.Contains(t, p.run("completion", shell).out, "cfdot", shell)
	}
}

// TestCompletionDoesNotKeepAShellWaiting when servers hang or are not there.
func TestCompletionDoesNotKeepAShellWaiting(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.bbs.actual = []*workloadv1.ActualLRP{anInstance(0)}
	p.bbs.listed = func() { pause(time.Minute)(t.Context()) }
	for _, bbs := range []string{p.env["BBS_URL"], "127.0.0.1:1", "nonsense"} {
		began := time.Now()
		got := p.run("__complete", "describe", "lrp", "--bbs", bbs, "")
		require.Equal(t, ExitOK, got.exit, got.errors)
		require.Less(t, time.Since(began), 5*time.Second, "the limit is one second, on a machine that has better things to do")
	}
}

// TestPace lets a burst through and then keeps to the rate.
func TestPace(t *testing.T) {
	t.Parallel()
	p := newPace()
	began := time.Now()
	for range requestsPerSecond + 5 {
		end, err := p.begin(t.Context())
		require.NoError(t, err)
		end()
	}
	require.Greater(t, time.Since(began), 200*time.Millisecond, "five more than a burst need a quarter of a second")
	for range requestsAtOnce {
		p.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	_, err := p.begin(ctx)
	require.ErrorIs(t, err, errInterrupted, "one more than may be under way waits")
}

package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

const (
	aTask = `{"task_guid": "t", "domain": "d", "rootfs": "preloaded:r", "action": {"run": {"path": "a", "user": "u"}}}`
	anLRP = `{"process_guid": "p", "domain": "d", "rootfs": "preloaded:r", "instances": 1, "metric_tags": {"source_id": {"static": "p"}}, "action": {"run": {"path": "a", "user": "u"}}}`
)

// everyCommand is each command as it is called when all is well, with what it prints as lines.
func everyCommand() map[string]string {
	return map[string]string{
		"desired-lrps":                         `{"process_guid":"p"`,
		"desired-lrp p":                        `{"process_guid":"p"`,
		"desired-lrp-scheduling-infos":         `{"process_guid":"a"`,
		"create-desired-lrp " + compact(anLRP): "",
		`update-desired-lrp p {"instances":2}`: "",
		"delete-desired-lrp p":                 "",
		"actual-lrps":                          `{"process_guid":"p"`,
		"actual-lrp-groups":                    `{"instance":{"process_guid":"p"`,
		"actual-lrp-groups-for-guid p -i 0":    `{"instance":{"process_guid":"p"`,
		"retire-actual-lrp p 0":                "",
		"tasks":                                `{"task_guid":"t"`,
		"task t":                               `{"task_guid":"t"`,
		"create-task " + compact(aTask):        "",
		"cancel-task t":                        "",
		"delete-task t":                        "",
		"placement p 3":                        `{"process_guid":"p","index":3`,
		"placement --task t --cells":           `{"task_guid":"t"`,
		"plan a 3":                             `{"process_guid":"a","instances":3`,
		"domains":                              `"apps"`,
		"set-domain apps":                      "",
		"cells":                                `{"cell_id":"cell-1"`,
		"cell cell-1":                          `{"cell_id":"cell-1"`,
		"cell-state cell-1":                    `{"rep_url":"https://`,
		"cell-states":                          `{"rep_url":"https://`,
		"evacuate cell-1 --yes":                `{"cell_id":"cell-1"`,
		"lrp-events":                           `{"type":"actual_lrp_crashed"`,
		"task-events":                          `{"type":"task_removed"`,
		"logs p -o json":                       `{"at":`,
		"top":                                  `{"process_guid":"p"`,
		"top p --sort memory --limit 1":        `{"process_guid":"p"`,
		"locks":                                `{"key":"bbs"`,
		"presences":                            `{"key":"cell-1"`,
		"presences -w":                         `{"change":"listed","record":{"key":"cell-1"`,
		"claim-lock -k bbs -o me -t 5":         "",
		"claim-presence -k c -o me -v x -t 5":  "",
		"release-lock -k bbs -o me":            "",
		"version":                              "",
		"summary":                              `{"processes":2`,
		"describe lrp p":                       `{"desired":{"process_guid":"p"`,
		"describe task t":                      `{"task":{"task_guid":"t"`,
		"describe cell cell-1":                 `{"presence":{"cell_id":"cell-1"`,
		"find p-0":                             `{"kind":"instance","guid":"p","index":0`,
		"diff p -d apps":                       "",
		"wait lrp p --running 1":               "",
		"wait task t":                          `{"task_guid":"t"`,
		"doctor":                               `{"check":"own certificate"`,
		"ping":                                 `{"server":"bbs"`,
		"events p":                             `{"type":"actual_lrp_crashed"`,
		"evacuation cell-1":                    `{"cell_id":"cell-1"`,
		"actual-lrps -w":                       `{"change":"listed","record":{"process_guid":"p"`,
		"tasks -w":                             `{"change":"listed","record":{"task_guid":"t"`,
		"desired-lrp-scheduling-infos -w":      `{"change":"listed","record":{"process_guid":"p"`,
		"contexts":                             "",
	}
}

// commandOf are the words that name the command of a line.
func commandOf(line string) []string {
	words := strings.Fields(line)
	if words[0] == "describe" || words[0] == "wait" {
		return words[:2]
	}
	return words[:1]
}

func compact(text string) string { return strings.ReplaceAll(text, " ", "") }

// whole is a platform with one of everything.
func whole(t *testing.T) *platform {
	t.Helper()
	p := newPlatform(t)
	p.bbs.domains = []*bbsv1.Domain{{Domain: "apps"}}
	p.bbs.tasks = []*workloadv1.Task{{TaskGuid: "t", Domain: "tasks", State: workloadv1.TaskState_TASK_STATE_RUNNING}}
	p.bbs.desired = []*workloadv1.DesiredLRP{{ProcessGuid: "p", Domain: "apps", Instances: 2, Routes: map[string][]byte{"cf-router": []byte(`[{"hostnames":["a.example","b.example"],"port":8080}]`)}}}
	p.bbs.actual = []*workloadv1.ActualLRP{anInstance(0)}
	p.bbs.watch = sendOneOfEach
	p.bbs.infos = []*workloadv1.SchedulingInfo{{ProcessGuid: "p", Domain: "apps", Instances: 1}}
	p.bbs.status = &bbsv1.GetStatusResponse{Active: true, Instance: "bbs-1", Revision: 9, Epoch: 2, LastConvergence: timestamppb.Now(), LastConvergenceDuration: durationpb.New(12 * time.Millisecond)}
	p.locket.held = someHeld()
	p.auction.explain, p.auction.plan = refusedEverywhere, spreadOverTwoCells
	p.addCell("cell-1", workingRep("cell-1"))
	return p
}

func anInstance(index int32) *workloadv1.ActualLRP {
	return &workloadv1.ActualLRP{
		Key:         &workloadv1.ActualLRPKey{ProcessGuid: "p", Index: index, Domain: "apps"},
		InstanceKey: &workloadv1.ActualLRPInstanceKey{InstanceGuid: fmt.Sprintf("p-%d", index), CellId: "cell-1"},
		State:       workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING, Presence: workloadv1.Presence_PRESENCE_ORDINARY, Routable: true,
		Since: timestamppb.New(time.Now().Add(-3*time.Hour - 12*time.Minute)), AvailabilityZone: "z1",
		NetInfo: &workloadv1.ActualLRPNetInfo{Address: "10.0.0.1", InstanceAddress: "10.255.0.1", Ports: []*workloadv1.PortMapping{{ContainerPort: 8080, HostPort: 61001}}},
	}
}

func TestEveryCommandPrintsLines(t *testing.T) {
	t.Parallel()
	p := whole(t)
	for line, want := range everyCommand() {
		got := p.run(strings.Fields(line)...)
		require.Equal(t, ExitOK, got.exit, "%s: %s", line, got.errors)
		require.Empty(t, got.errors, line)
		require.True(t, strings.HasPrefix(got.out, want), "%s printed %q", line, got.out)
		for _, text := range got.lines() {
			require.True(t, line == "version" || json.Valid([]byte(text)), "%s printed %q", line, text)
		}
	}
}

// TestEveryCommandHasATable prints what a terminal shows; a command that lists nothing prints nothing there either.
func TestEveryCommandHasATable(t *testing.T) {
	t.Parallel()
	p := whole(t)
	for line, inPipe := range everyCommand() {
		if strings.HasPrefix(line, "logs") || line == "version" {
			continue
		}
		got := p.runIn(t.Context(), Environment{Terminal: true}, strings.Fields(line)...)
		require.Equal(t, ExitOK, got.exit, "%s: %s", line, got.errors)
		if line != "diff p -d apps" && !strings.HasPrefix(line, "wait lrp") && line != "contexts" { // they say it to people when there is nothing
			require.Equal(t, inPipe == "", got.out == "", "%s printed %q", line, got.out)
		}
		require.False(t, strings.HasPrefix(got.out, "{"), "%s printed %q", line, got.out)
	}
}

func TestEveryCommandIsHelpful(t *testing.T) {
	t.Parallel()
	p := &platform{t: t}
	help := p.run("help")
	require.Equal(t, ExitOK, help.exit)
	require.Equal(t, p.run("--help").out, p.run().out, "without a command help is shown")
	for line := range everyCommand() {
		words := commandOf(line)
		name := strings.Join(words, " ")
		require.Equal(t, !strings.HasPrefix(name, "actual-lrp-groups"), strings.Contains(help.out, "  "+words[0]+" "), "help lists %s unless it is deprecated", name)
		topic := p.run(append([]string{"help"}, words...)...)
		require.Equal(t, ExitOK, topic.exit)
		require.Contains(t, topic.out, "cfdot "+name)
		byFlag := p.run(append(slices.Clone(words), "--help")...)
		require.Equal(t, ExitOK, byFlag.exit)
		require.Contains(t, byFlag.out, "Usage:\n  cfdot "+name)
	}
}

// TestEveryHelpHasExamples checks that there are three, of this command or of another one, with flags that exist.
func TestEveryHelpHasExamples(t *testing.T) {
	t.Parallel()
	p := &platform{t: t}
	of := regexp.MustCompile(`cfdot ((?:describe |wait )?[a-z-]+)([^|&;]*)`)
	flag := regexp.MustCompile(` (--?[a-z-]+)`)
	for line := range everyCommand() {
		name := strings.Join(commandOf(line), " ")
		if name == "version" {
			continue
		}
		_, rest, _ := strings.Cut(p.run(append(commandOf(line), "--help")...).out, "\nExamples:\n")
		shown, _, _ := strings.Cut(rest, "\n\n")
		require.Len(t, strings.Split(shown, "\n"), 3, name)
		require.Contains(t, shown, "cfdot "+name, name)
		for _, call := range of.FindAllStringSubmatch(shown, -1) {
			for _, found := range flag.FindAllStringSubmatch(call[2], -1) {
				if found[1] == "-n" { // of xargs
					continue
				}
				require.Contains(t, p.run(append(strings.Fields(call[1]), "--help")...).out, found[1], "%s: %s has no such flag", name, call[0])
			}
		}
	}
}

func TestUsageMistakes(t *testing.T) {
	t.Parallel()
	p := whole(t)
	missing := filepath.Join(t.TempDir(), "none.json")
	for line, want := range map[string]string{
		"actul-lrps":                     `unknown command "actul-lrps"; did you mean actual-lrps?`,
		"help actul-lrps":                `unknown command "actul-lrps"; did you mean actual-lrps?`,
		"frobnicate":                     `unknown command "frobnicate"`,
		"actual-lrps --colour":           "unknown flag: --colour",
		"actual-lrps extra":              `Too many arguments: ["extra"]`,
		"task":                           "Missing arguments: TASK_GUID",
		"task|":                          "TASK_GUID must not be empty",
		"retire-actual-lrp p":            "Missing arguments: INDEX",
		"retire-actual-lrp p first":      `INDEX must be a number of at least 0, not "first"`,
		"retire-actual-lrp p 2147483648": "INDEX must be a number",
		"retire-actual-lrp p -- -1":      "INDEX must be a number",
		"placement p":                    "Missing arguments: INDEX",
		"placement p first":              `INDEX must be a number of at least 0, not "first"`,
		"placement p -- -1":              "INDEX must be a number",
		"placement p 1 --task t":         `Too many arguments: ["p" "1"]`,
		"plan p":                         "Missing arguments: COUNT",
		"plan p some":                    `COUNT must be a number from 1 to 10000, not "some"`,
		"plan p 0":                       "COUNT must be a number from 1 to 10000",
		"plan p 10001":                   "COUNT must be a number from 1 to 10000",
		"placement p 1 --auctioneerLocation http://a:1": "auctioneerLocation: the scheme must be https",
		"actual-lrps -i -1":                             "index must be at least 0",
		"actual-lrps -i one":                            "invalid argument",
		"actual-lrps --state BUSY":                      "state must be UNCLAIMED, CLAIMED, RUNNING or CRASHED",
		"actual-lrps --state UNSPECIFIED":               "state must be UNCLAIMED, CLAIMED, RUNNING or CRASHED",
		"actual-lrps --presence GONE":                   "presence must be ORDINARY, EVACUATING or SUSPECT",
		"actual-lrp-groups-for-guid":                    "Missing arguments: PROCESS_GUID",
		"actual-lrp-groups-for-guid p -i -1":            "index must be at least 0",
		"actual-lrps -o xml":                            `"xml" is not an output format`,
		"actual-lrps --timeout 1.5":                     "timeout must be a whole number of seconds",
		"actual-lrps --timeout -1":                      "timeout must be a whole number of seconds",
		"actual-lrps --skipCertVerify":                  "servers are always verified",
		"actual-lrps --bbsURL http://127.0.0.1:1":       "bbsURL: the scheme must be https",
		"actual-lrps --bbsURL unix:///socket":           "bbsURL: the scheme must be https",
		"actual-lrps --bbsURL bbs.internal":             `bbsURL: "bbs.internal" must be HOST:PORT`,
		"actual-lrps --bbsURL :8889":                    `bbsURL: ":8889" must be HOST:PORT`,
		"actual-lrps --caCertFile " + missing:           "loading the certificates",
		"create-task {":                                 "not JSON",
		`create-task {"colour":1}`:                      "colour: is no known member",
		"create-desired-lrp @" + missing:                "reading the document",
		`update-desired-lrp p {"domain":"d"}`:           "domain: is no known member",
		"set-domain apps -t -1s":                        "ttl must be whole seconds and not negative",
		"set-domain apps -t 1500ms":                     "ttl must be whole seconds and not negative",
		"set-domain apps -t soon":                       "invalid argument",
		"claim-lock -o me -t 1":                         "key and owner must be given",
		"claim-lock -k a -t 1":                          "key and owner must be given",
		"claim-lock -k a -o me":                         "ttl must be more than 0 seconds",
		"claim-presence -k a -o me -t -1":               "ttl must be more than 0 seconds",
		"release-lock -k a":                             "key and owner must be given",
		"evacuate cell-1":                               "cannot be undone; repeat with --yes",
	} {
		args := strings.Fields(line)
		if name, empty := strings.CutSuffix(line, "|"); empty {
			args = []string{name, ""}
		}
		got := p.run(args...)
		require.Equal(t, ExitUsage, got.exit, "%s: %s", line, got.errors)
		require.Contains(t, got.errors, want, line)
		require.Contains(t, got.errors, "Usage:\n  cfdot", line)
		require.Empty(t, got.out, line)
	}
	require.Empty(t, p.bbs.requests, "a mistake asks nobody anything")
}

func TestMissingEnvironment(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	for name, test := range map[string]struct {
		without []string
		command string
		want    string
	}{
		"no bbs":                     {[]string{"BBS_URL"}, "cells", "bbsURL must be given by flag or environment"},
		"no locket":                  {[]string{"LOCKET_API_LOCATION"}, "locks", "locketAPILocation must be given by flag or environment"},
		"no auctioneer":              {[]string{"AUCTIONEER_LOCATION"}, "placement p 1", "auctioneerLocation must be given by flag or environment"},
		"no authority":               {[]string{"CA_CERT_FILE"}, "cells", "there is no caCertFile:"},
		"a certificate without key":  {[]string{"CLIENT_KEY_FILE"}, "cells", "there is no clientKeyFile:"},
		"a key without certificate":  {[]string{"CLIENT_CERT_FILE"}, "cells", "there is no clientCertFile:"},
		"nothing of the three files": {[]string{"CA_CERT_FILE", "CLIENT_KEY_FILE", "CLIENT_CERT_FILE"}, "locks", "there is no caCertFile, no clientCertFile, no clientKeyFile:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := func(variable string) string {
				if slices.Contains(test.without, variable) {
					return ""
				}
				return p.env[variable]
			}
			var errs strings.Builder
			exit := Run(t.Context(), strings.Fields(test.command), Environment{Stdout: &strings.Builder{}, Stderr: &errs, Stdin: strings.NewReader(""), Getenv: env})
			require.Equal(t, ExitUsage, exit)
			require.Contains(t, errs.String(), test.want)
		})
	}
}

func TestSkippingVerificationIsRefusedFromTheEnvironmentToo(t *testing.T) {
	t.Parallel()
	p := whole(t)
	for value, want := range map[string]string{"true": "servers are always verified", "1": "servers are always verified", "perhaps": "SKIP_CERT_VERIFY must be true or false"} {
		p.env["SKIP_CERT_VERIFY"] = value
		got := p.run("domains")
		require.Equal(t, ExitUsage, got.exit)
		require.Contains(t, got.errors, want)
	}
	p.env["SKIP_CERT_VERIFY"] = "false"
	require.Equal(t, ExitOK, p.run("domains").exit)
}

// TestGroups puts the records of an index together and chooses the one that counts.
func TestGroups(t *testing.T) {
	t.Parallel()
	record := func(index int32, presence workloadv1.Presence, state workloadv1.ActualLRPState, guid string) *workloadv1.ActualLRP {
		l := anInstance(index)
		l.Presence, l.State, l.InstanceKey.InstanceGuid = presence, state, guid
		return l
	}
	const (
		ordinary, suspect, evacuating = workloadv1.Presence_PRESENCE_ORDINARY, workloadv1.Presence_PRESENCE_SUSPECT, workloadv1.Presence_PRESENCE_EVACUATING
		running, claimed              = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING, workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED
	)
	p := newPlatform(t)
	p.bbs.actual = []*workloadv1.ActualLRP{
		record(0, ordinary, claimed, "new"), record(0, evacuating, running, "old"),
		record(1, ordinary, claimed, "replacement"), record(1, suspect, running, "lost"),
		record(2, suspect, running, "lost"), record(2, ordinary, running, "replacement"),
		record(3, evacuating, running, "alone"),
	}
	got := p.run("actual-lrp-groups")
	require.Equal(t, ExitOK, got.exit, got.errors)
	var pairs []string
	for _, line := range got.lines() {
		var g struct {
			Instance, Evacuating struct {
				GUID string `json:"instance_guid"`
			}
		}
		require.NoError(t, json.Unmarshal([]byte(line), &g))
		pairs = append(pairs, g.Instance.GUID+"/"+g.Evacuating.GUID)
	}
	require.Equal(t, []string{"new/old", "lost/", "replacement/", "/alone"}, pairs)
	require.Contains(t, p.run("actual-lrp-groups", "-o", "table").out, "EVACUATING FROM")
}

func TestLocketNeedsNoBBS(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	delete(p.env, "BBS_URL")
	require.Equal(t, ExitOK, p.run("locks").exit)
}

func TestFlagsWinOverTheEnvironment(t *testing.T) {
	t.Parallel()
	p := whole(t)
	right := p.env["BBS_URL"]
	p.env["BBS_URL"] = "http://127.0.0.1:1"
	p.env["CFDOT_TIMEOUT"] = "never"
	require.Equal(t, ExitUsage, p.run("domains").exit)
	for _, args := range [][]string{
		{"domains", "--bbsURL", right, "--timeout", "5"},
		{"--bbsURL", right, "--timeout", "0", "domains"},
		{"--bbs", strings.TrimPrefix(right, "https://"), "--timeout=5", "domains"},
	} {
		require.Equal(t, ExitOK, p.run(args...).exit, args)
	}
	require.Equal(t, ExitOK, p.run("help").exit, "help works where the environment is wrong")
}

func TestServersRefuse(t *testing.T) { //nolint:tparallel // its subtests share a server, whose answer they set
	t.Parallel()
	p := newPlatform(t)
	for name, test := range map[string]struct {
		err    error
		exit   int
		stderr string
	}{
		"a refusal with a number": {
			fault.New(codes.FailedPrecondition, "InvalidStateTransition", "it runs"), ExitAPI,
			"BBS error\nType 9: InvalidStateTransition\nMessage: it runs\n",
		},
		"a refusal without one": {
			fault.New(codes.FailedPrecondition, "RevisionTooOld", "too old"), ExitAPI, "BBS error\nType: RevisionTooOld\nMessage: too old\n",
		},
		"a bad request": {
			fault.InvalidRequest(fault.Violation{Field: "task_guid", Description: "is odd"}, fault.Violation{Field: "domain", Description: "is odd too"}),
			ExitAPI, "BBS error\nType 4: InvalidRequest\n",
		},
		"nothing there":           {fault.New(codes.NotFound, "ResourceNotFound", "no such task"), ExitNotFound, "BBS error\nType 13: ResourceNotFound\nMessage: no such task\n"},
		"an exhausted server":     {fault.New(codes.ResourceExhausted, "", "too much"), ExitAPI, "BBS error\nType: ResourceExhausted\n"},
		"a failure of the server": {errors.New("secret"), ExitAPI, "BBS error\nType"},
	} {
		t.Run(name, func(t *testing.T) {
			p.bbs.err = test.err
			got := p.run("delete-task", "t")
			require.Equal(t, test.exit, got.exit, got.errors)
			require.True(t, strings.HasPrefix(got.errors, test.stderr), got.errors)
			require.NotContains(t, got.errors, "Usage:")
			require.NotContains(t, got.errors, "secret")
			for _, violation := range fault.Violations(test.err) {
				require.Contains(t, got.errors, "  "+violation.Field+": "+violation.Description+"\n")
			}
			inJSON := p.run("delete-task", "t", "-o", "json")
			require.Equal(t, test.exit, inJSON.exit)
			var document struct {
				Error struct{ Code, Name, Message string }
			}
			require.NoError(t, json.Unmarshal([]byte(inJSON.errors), &document), inJSON.errors)
			require.NotEmpty(t, document.Error.Code)
			require.NotEmpty(t, document.Error.Message)
		})
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	stranger := mtlstest.NewAuthority(t).Issue(mtls.Identity{Role: mtls.RoleOperator, Name: "olive"})
	for name, args := range map[string][]string{
		"nobody listens":               {"domains", "--bbs", closed.Addr().String(), "--timeout", "1"},
		"a list from nobody":           {"tasks", "--bbs", closed.Addr().String(), "--timeout", "1"},
		"events from nobody":           {"lrp-events", "--bbs", closed.Addr().String(), "--timeout", "1"},
		"an authority that is another": {"domains", "--caCertFile", stranger.CA, "--timeout", "1"},
		"a server that is no bbs":      {"domains", "--bbs", p.env["LOCKET_API_LOCATION"], "--timeout", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := p.run(args...)
			require.Equal(t, ExitUnreachable, got.exit, got.errors)
			require.True(t, strings.HasPrefix(got.errors, "BBS error\nType"), got.errors)
			require.NotContains(t, got.errors, "Usage:")
			require.Empty(t, got.out)
		})
	}
	got := p.run("locks", "--locketAPILocation", closed.Addr().String(), "--timeout", "1")
	require.Equal(t, ExitUnreachable, got.exit)
	require.True(t, strings.HasPrefix(got.errors, "Locket error\n"), got.errors)
}

// TestASecondServerAnswers gives two addresses, of which the first is a standby.
func TestASecondServerAnswers(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	standby := p.serve(mtls.Identity{Role: mtls.RoleBBS}, "bbs.v1.not", (&fakeBBS{}).register)
	p.bbs.domains = []*bbsv1.Domain{{Domain: "apps"}}
	got := p.run("domains", "--bbs", standby+", "+p.env["BBS_URL"])
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Equal(t, "\"apps\"\n", got.out)
}

func TestInterruption(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	p.bbs.actual = []*workloadv1.ActualLRP{anInstance(0), anInstance(1)}
	p.bbs.between = func(ctx context.Context) {
		cancel(Interrupted())
		<-ctx.Done()
	}
	got := p.runIn(ctx, Environment{}, "actual-lrps")
	require.Equal(t, ExitInterrupted, got.exit)
	require.Empty(t, got.errors)
}

func TestOtherFailures(t *testing.T) {
	t.Parallel()
	p := whole(t)
	got := p.runIn(t.Context(), Environment{Stdin: iotest.ErrReader(errors.New("no disk"))}, "create-task", "@-")
	require.Equal(t, ExitOther, got.exit)
	require.Equal(t, "reading standard input: no disk\n", got.errors)
	got = p.runIn(t.Context(), Environment{Stdout: brokenOutput{}}, "actual-lrps")
	require.Equal(t, ExitOther, got.exit)
	require.Equal(t, "no space left on device\n", got.errors)
}

type brokenOutput struct{}

func (brokenOutput) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// TestAReaderThatGoesAwayIsNoFailure closes the reading end of a pipe, as head does, for every way of printing.
func TestAReaderThatGoesAwayIsNoFailure(t *testing.T) {
	t.Parallel()
	p := whole(t)
	for line, printed := range everyCommand() {
		if printed == "" && line != "version" {
			continue
		}
		for _, suffix := range []string{"", " -o table"} {
			if suffix != "" && strings.Contains(line, "-o json") {
				line = strings.TrimSuffix(line, " -o json")
			}
			reader, writer, err := os.Pipe()
			require.NoError(t, err)
			require.NoError(t, reader.Close())
			got := p.runIn(t.Context(), Environment{Stdout: writer}, strings.Fields(line+suffix)...)
			require.NoError(t, writer.Close())
			require.Equal(t, ExitOK, got.exit, "%s: %s", line+suffix, got.errors)
			require.Empty(t, got.errors, line+suffix)
		}
	}
}

// TestListsAreprintedAsTheyCome holds the second record back until the first has been printed.
func TestListsArePrintedAsTheyCome(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.bbs.actual = []*workloadv1.ActualLRP{anInstance(0), anInstance(1)}
	printed, seen := make(chan string), make(chan struct{})
	p.bbs.between = func(ctx context.Context) {
		select {
		case <-seen:
		case <-ctx.Done():
		}
	}
	ended := make(chan outcome, 1)
	go func() { ended <- p.runIn(t.Context(), Environment{Stdout: notifier{lines: printed}}, "actual-lrps") }()
	require.Contains(t, <-printed, `"index":0`)
	close(seen)
	require.Contains(t, <-printed, `"index":1`)
	require.Equal(t, ExitOK, (<-ended).exit)
}

// TestAListMayTakeLongButNotPause lets each record come in less than the time of a request, the whole in more.
func TestAListMayTakeLongButNotPause(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	for i := range int32(4) {
		p.bbs.actual = append(p.bbs.actual, anInstance(i))
	}
	p.bbs.between = pause(600 * time.Millisecond)
	got := p.run("actual-lrps", "--timeout", "1")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Len(t, got.lines(), 4)

	p.bbs.between = func(ctx context.Context) { <-ctx.Done() }
	got = p.run("actual-lrps", "--timeout", "1")
	require.Equal(t, ExitUnreachable, got.exit)
	require.Len(t, got.lines(), 1, "what was there was printed")
	require.Regexp(t, "^BBS error\nType 31: Timeout\nMessage: the server sent nothing more in time\n  127.0.0.1:\\d+: it answers now; try again\n$", got.withoutRequest(t))
}

// pause waits for a time or the end of the call.
func pause(d time.Duration) func(context.Context) {
	return func(ctx context.Context) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// TestRequests checks what each flag and argument asks for.
func TestRequests(t *testing.T) {
	t.Parallel()
	p := whole(t)
	one := int32(1)
	for line, want := range map[string]any{
		"desired-lrps -d apps":                 &bbsv1.ListDesiredLRPsRequest{Filter: &bbsv1.DesiredLRPFilter{Domain: "apps"}, IncludeDefinition: true},
		"desired-lrp-scheduling-infos -d apps": &bbsv1.ListSchedulingInfosRequest{Filter: &bbsv1.DesiredLRPFilter{Domain: "apps"}},
		"desired-lrp p":                        &bbsv1.GetDesiredLRPRequest{ProcessGuid: "p"},
		"desired-lrp --show-secrets p":         &bbsv1.GetDesiredLRPRequest{ProcessGuid: "p", IncludeSecrets: true},
		"delete-desired-lrp p":                 &bbsv1.RemoveDesiredLRPRequest{ProcessGuid: "p"},
		"actual-lrps":                          &bbsv1.ListActualLRPsRequest{},
		"actual-lrp-groups -d apps -c cell-1":  &bbsv1.ListActualLRPsRequest{Domain: "apps", CellId: "cell-1"},
		"actual-lrp-groups-for-guid p -i 1":    &bbsv1.ListActualLRPsRequest{ProcessGuids: []string{"p"}, Index: &one},
		"actual-lrps --presence SUSPECT,EVACUATING": &bbsv1.ListActualLRPsRequest{
			Presences: []workloadv1.Presence{workloadv1.Presence_PRESENCE_SUSPECT, workloadv1.Presence_PRESENCE_EVACUATING},
		},
		"actual-lrps -d apps -c cell-1 -p p -i 1 --state CRASHED,RUNNING": &bbsv1.ListActualLRPsRequest{
			Domain: "apps", CellId: "cell-1", ProcessGuids: []string{"p"}, Index: &one,
			States: []workloadv1.ActualLRPState{workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CRASHED, workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING},
		},
		"actual-lrps -i 1":         &bbsv1.ListActualLRPsRequest{Index: &one},
		"retire-actual-lrp p 7":    &bbsv1.RetireActualLRPRequest{ProcessGuid: "p", Index: 7},
		"tasks -d tasks -c cell-1": &bbsv1.ListTasksRequest{Domain: "tasks", CellId: "cell-1", IncludeDefinition: true},
		"tasks -o table":           &bbsv1.ListTasksRequest{},
		"task t --show-secrets":    &bbsv1.GetTaskRequest{TaskGuid: "t", IncludeDefinition: true, IncludeSecrets: true},
		"cancel-task t":            &bbsv1.CancelTaskRequest{TaskGuid: "t"},
		"delete-task t":            &bbsv1.DeleteTaskRequest{TaskGuid: "t", Resolve: true},
		"set-domain apps -t 2m":    &bbsv1.UpsertDomainRequest{Domain: "apps", Ttl: durationpb.New(2 * time.Minute)},
		"set-domain apps":          &bbsv1.UpsertDomainRequest{Domain: "apps", Ttl: durationpb.New(0)},
		"lrp-events -x -c cell-1 -p p --after 7": &bbsv1.WatchRequest{
			Start: &bbsv1.WatchRequest_AfterRevision{AfterRevision: 7}, CellId: "cell-1", ProcessGuids: []string{"p"},
			Kinds: []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_DESIRED_LRP, bbsv1.WatchKind_WATCH_KIND_ACTUAL_LRP},
		},
		"task-events": &bbsv1.WatchRequest{Kinds: []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_TASK}},
	} {
		got := p.run(strings.Fields(line)...)
		require.Equal(t, ExitOK, got.exit, "%s: %s", line, got.errors)
		p.bbs.mu.Lock()
		last := p.bbs.requests[len(p.bbs.requests)-1]
		p.bbs.mu.Unlock()
		require.Empty(t, cmp.Diff(want, last, protocmp.Transform()), line)
	}
}

// TestDocumentsComeFromAnywhere gives one document by argument, by file and by standard input.
func TestDocumentsComeFromAnywhere(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	file := filepath.Join(t.TempDir(), "task.json")
	require.NoError(t, os.WriteFile(file, []byte(aTask), 0o600))
	for _, argument := range []string{aTask, "@" + file, "@-"} {
		got := p.runIn(t.Context(), Environment{Stdin: strings.NewReader(aTask)}, "create-task", argument)
		require.Equal(t, ExitOK, got.exit, got.errors)
		require.Equal(t, "t", asked[*bbsv1.DesireTaskRequest](t, p.bbs).GetTaskGuid())
	}
	got := p.run("update-desired-lrp", "p", `{"instances": 3}`)
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Equal(t, int32(3), asked[*bbsv1.UpdateDesiredLRPRequest](t, p.bbs).GetUpdate().GetInstances())
	got = p.run("create-desired-lrp", anLRP)
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Equal(t, "p", asked[*bbsv1.DesireLRPRequest](t, p.bbs).GetDesiredLrp().GetProcessGuid())
}

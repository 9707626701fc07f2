package spec

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	workloadv1 "diego.internal/proto/workload/v1"
)

// TestParseDesiredLRPTakesWhatOperatorsHave reads a document in the form that Diego's tools have always used, with
// members that carry nothing: empty limits, times of 0, an empty log source.
func TestParseDesiredLRPTakesWhatOperatorsHave(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/desired-lrp.json")
	require.NoError(t, err)
	got, err := ParseDesiredLRP(text)
	require.NoError(t, err)

	require.Equal(t, int32(3), got.GetInstances())
	require.JSONEq(t, `[{"hostname":"a.internal"}]`, string(got.GetRoutes()["internal-router"]))
	require.Equal(t, "metrics-a", got.GetMetricTags()["source_id"].GetStatic())
	require.Equal(t, workloadv1.DynamicTag_DYNAMIC_TAG_INSTANCE_GUID, got.GetMetricTags()["process_instance_id"].GetDynamic())
	definition := got.GetDefinition()
	require.Equal(t, []uint32{8080, 2222}, definition.GetPorts())
	require.Equal(t, "1m0s", definition.GetStartTimeout().AsDuration().String())
	require.Equal(t, int64(-1), definition.GetContainer().GetLog().GetRateLimitBytesPerSecond())
	require.Equal(t, int32(256), definition.GetContainer().GetResources().GetMemoryMb())
	ssh := definition.GetAction().GetCodependent().GetActions()[1].GetRun()
	require.True(t, ssh.GetSuppressLogOutput())
	require.Nil(t, ssh.GetResourceLimits(), "no limit is no limit of 0")
	require.Nil(t, definition.GetCheckDefinition().GetChecks()[0].GetTcpCheck().GetInterval(), "0 is the default, not never")
	download := definition.GetSetup().GetSerial().GetActions()[0].GetDownload()
	require.Equal(t, workloadv1.ChecksumAlgorithm_CHECKSUM_ALGORITHM_SHA256, download.GetChecksum().GetAlgorithm())

	again, err := ParseDesiredLRP(mustEncode(t, DesiredLRPOf(got)))
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(got, again, protocmp.Transform()), "what is shown can be created elsewhere")
}

func mustEncode(t *testing.T, document any) []byte {
	t.Helper()
	text, err := json.Marshal(document)
	require.NoError(t, err)
	return text
}

// TestParseNamesEveryProblem gives each document all the mistakes at once that a person would want to hear of at once.
func TestParseNamesEveryProblem(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		document string
		want     []string
	}{
		"nothing":              {``, []string{"not JSON, at byte 0: unexpected end of JSON input"}},
		"no JSON":              {`{"domain": domain}`, []string{"not JSON, at byte 12: invalid character 'd' looking for beginning of value"}},
		"half a document":      {`{"domain": "a"`, []string{"not JSON, at byte 14: unexpected end of JSON input"}},
		"two documents":        {`{} {}`, []string{"not JSON, at byte 4: invalid character '{' after top-level value"}},
		"a list":               {`[]`, []string{"the document: must be an object, is a list"}},
		"a number":             {`7`, []string{"the document: must be an object, is 7"}},
		"a name that is wrong": {`{"guid": "a", "Domain": "b"}`, []string{"guid: is no known member", "Domain: is no known member"}},
		"a name within a value that is wrong": {
			`{"action": {"run": {"paht": {"deep": [1]}}}, "egress_rules": [{"protocol": "tcp"}, {"protocol": "tcp", "port": [1]}]}`,
			[]string{"action.run.paht: is no known member", "egress_rules[1].port: is no known member"},
		},
		"a name that comes twice": {`{"domain": "a", "instances": 1, "domain": "b"}`, []string{"domain: is given twice"}},
		"types that are wrong": {
			`{"domain": 1, "instances": "3", "privileged": "yes", "ports": {}, "env": [[]], "network": [], "log_rate_limit": true}`,
			[]string{
				"domain: must be a text, is 1", "instances: must be a whole number of 32 bits, is a text", "privileged: must be true or false, is a text",
				"ports: must be a list, is an object", "env[0]: must be an object, is a list", "network: must be an object, is a list",
				"log_rate_limit: must be an object, is true",
			},
		},
		"numbers that do not fit": {
			`{"instances": 2147483648, "memory_mb": 1.5, "ports": [-1, 4294967296], "disk_mb": 1e3}`,
			[]string{
				"instances: must be a whole number of 32 bits, is 2147483648", "memory_mb: must be a whole number of 32 bits, is 1.5",
				"ports[0]: must be a whole number from 0 to 4294967295, is -1", "ports[1]: must be a whole number from 0 to 4294967295, is 4294967296",
				"disk_mb: must be a whole number of 32 bits, is 1e3",
			},
		},
		"values that are none": {
			`{"update_strategy": "slow", "egress_rules": [{"protocol": "sctp"}], "metric_tags": {"a": {"dynamic": "CELL"}},
			  "image_layers": [{"layer_type": "own", "media_type": "rar", "digest_algorithm": "crc"}],
			  "cached_dependencies": [{"checksum_algorithm": "crc", "checksum_value": "1"}], "volume_mounts": [{"mode": "w"}]}`,
			[]string{
				`egress_rules[0].protocol: "sctp" is not one of its values`,
				`cached_dependencies[0].checksum_algorithm: "crc" is not one of its values`,
				`image_layers[0].layer_type: "own" is not one of its values`,
				`image_layers[0].media_type: "rar" is not one of its values`,
				`image_layers[0].digest_algorithm: "crc" is not one of its values`,
				`volume_mounts[0].mode: must be r or rw, is "w"`,
				`metric_tags.a.dynamic: "CELL" is not one of its values`,
				`update_strategy: "slow" is not one of its values`,
			},
		},
		"actions that are none or two": {
			`{"action": {}, "setup": {"serial": {"actions": [{"run": {}, "try": {"action": {}}}, null]}}, "sidecars": [{"action": {"timeout": {"action": {}}}}]}`,
			[]string{
				"setup.serial.actions[0].try.action: must have exactly one kind of action, has 0",
				"setup.serial.actions[0]: must have exactly one kind of action, has 2",
				"setup.serial.actions[1]: must not be null",
				"action: must have exactly one kind of action, has 0",
				"sidecars[0].action.timeout.action: must have exactly one kind of action, has 0",
			},
		},
		"alternatives that are none or two": {
			`{"check_definition": {"checks": [{}], "readiness_checks": [{"tcp_check": {"port": 1}, "http_check": {"port": 1}}]},
			  "metric_tags": {"a": {}, "source_id": {"static": "x"}}, "metrics_guid": "y",
			  "volume_mounts": [{"mode": "r", "shared": {"volume_id": "a"}, "dedicated": {"mounter_id": "b"}}]}`,
			[]string{
				"volume_mounts[0]: shared and dedicated exclude each other",
				"check_definition.checks[0]: needs either tcp_check or http_check",
				"check_definition.readiness_checks[0]: needs either tcp_check or http_check",
				"metric_tags.a: needs either static or dynamic",
				"metrics_guid: must equal the metric tag source_id",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseDesiredLRP([]byte(test.document))
			problem, ok := errors.AsType[*Error](err)
			require.True(t, ok, "%v", err)
			require.ElementsMatch(t, test.want, problem.Problems)
		})
	}
}

// TestParseKnowsEveryValue writes each value of each enum in the words of operators.
func TestParseKnowsEveryValue(t *testing.T) {
	t.Parallel()
	for _, enum := range []struct {
		document string
		prefix   string
		values   map[string]int32
	}{
		{`{"egress_rules": [{"protocol": "$"}]}`, "PROTOCOL_", workloadv1.Protocol_value},
		{`{"update_strategy": "$"}`, "UPDATE_STRATEGY_", workloadv1.UpdateStrategy_value},
		{`{"metric_tags": {"a": {"dynamic": "$"}}}`, "DYNAMIC_TAG_", workloadv1.DynamicTag_value},
		{`{"cached_dependencies": [{"checksum_algorithm": "$", "checksum_value": "0"}]}`, "CHECKSUM_ALGORITHM_", workloadv1.ChecksumAlgorithm_value},
		{`{"image_layers": [{"layer_type": "$"}]}`, "LAYER_TYPE_", workloadv1.ImageLayer_LayerType_value},
		{`{"image_layers": [{"media_type": "$"}]}`, "MEDIA_TYPE_", workloadv1.ImageLayer_MediaType_value},
		{`{"image_layers": [{"digest_algorithm": "$"}]}`, "DIGEST_ALGORITHM_", workloadv1.ImageLayer_DigestAlgorithm_value},
	} {
		for name, number := range enum.values {
			name = strings.TrimPrefix(name, enum.prefix)
			for _, spelling := range []string{name, strings.ToLower(name)} {
				_, err := ParseDesiredLRP([]byte(strings.ReplaceAll(enum.document, "$", spelling)))
				require.Equal(t, number == 0, err != nil, "%s in %s: %v", spelling, enum.document, err)
			}
		}
	}
}

func TestParseTask(t *testing.T) {
	t.Parallel()
	flat := `{"task_guid": "t", "domain": "d", "rootfs": "r", "result_file": "/result", "action": {"run": {"path": "a", "user": "u"}}}`
	want, err := ParseTask([]byte(flat))
	require.NoError(t, err)
	require.Equal(t, "/result", want.GetTaskDefinition().GetResultFile())
	for _, member := range []string{"definition", "task_definition"} {
		got, err := ParseTask([]byte(`{"task_guid": "t", "domain": "d", "` + member + `": {"rootfs": "r", "result_file": "/result", "action": {"run": {"path": "a", "user": "u"}}}}`))
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(want, got, protocmp.Transform()))
	}
	_, err = ParseTask([]byte(`{"task_guid": "t", "memory_mb": 1, "definition": {"rootfs": "r"}, "task_definition": {"rootfs": "r"}}`))
	require.EqualError(t, err, "task_definition: must be given once: as task_definition, as definition, or by members beside the others")
	_, err = ParseTask([]byte(`{"guid": "t", "task_definition": {"ports": [1]}}`))
	require.EqualError(t, err, "guid: is no known member\ntask_definition.ports: is no known member")
}

func TestParseDesiredLRPUpdate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		document string
		want     *workloadv1.DesiredLRPUpdate
		problem  string
	}{
		"nothing":             {document: `{}`, want: &workloadv1.DesiredLRPUpdate{}},
		"no instances at all": {document: `{"instances": 0}`, want: &workloadv1.DesiredLRPUpdate{Instances: new(int32)}},
		"routes that are cleared": {
			document: `{"routes": {}}`, want: &workloadv1.DesiredLRPUpdate{Routes: &workloadv1.DesiredLRPUpdate_Routes{}},
		},
		"routes": {
			document: `{"routes": {"a": [1, 2]}}`, want: &workloadv1.DesiredLRPUpdate{Routes: &workloadv1.DesiredLRPUpdate_Routes{Routes: map[string][]byte{"a": []byte("[1,2]")}}},
		},
		"tags": {
			document: `{"metric_tags": {"a": {"static": "b"}}}`,
			want: &workloadv1.DesiredLRPUpdate{MetricTags: &workloadv1.DesiredLRPUpdate_MetricTags{MetricTags: map[string]*workloadv1.MetricTagValue{
				"a": {Value: &workloadv1.MetricTagValue_Static{Static: "b"}},
			}}},
		},
		"credentials": {
			document: `{"image_username": "u", "image_password": "p"}`,
			want:     &workloadv1.DesiredLRPUpdate{ImageCredentials: &workloadv1.ImageCredentials{Username: "u", Password: "p"}},
		},
		"half of the credentials": {document: `{"image_password": "p"}`, problem: "image_username: must be given together with image_password"},
		"a policy": {
			document: `{"crash_restart_policy": {"max_restart_attempts": 0}}`,
			want: &workloadv1.DesiredLRPUpdate{CrashRestartPolicyChange: &workloadv1.DesiredLRPUpdate_CrashRestartPolicy{
				CrashRestartPolicy: &workloadv1.CrashRestartPolicy{MaxRestartAttempts: new(uint32)},
			}},
		},
		"no policy any more": {
			document: `{"crash_restart_policy": null}`,
			want:     &workloadv1.DesiredLRPUpdate{CrashRestartPolicyChange: &workloadv1.DesiredLRPUpdate_ClearCrashRestartPolicy{ClearCrashRestartPolicy: true}},
		},
		"a policy that is wrong": {
			document: `{"crash_restart_policy": {"max_restart_attempts": -1, "forever": true}}`,
			problem:  "crash_restart_policy.max_restart_attempts: must be a whole number from 0 to 4294967295, is -1\ncrash_restart_policy.forever: is no known member",
		},
		"a definition to roll out": {
			document: `{"supersede": true, "definition": {"rootfs": "r", "ports": [8080], "action": {"run": {"path": "a", "user": "u"}}}}`,
			want: &workloadv1.DesiredLRPUpdate{Supersede: true, Definition: &workloadv1.LRPDefinition{
				Container: &workloadv1.ContainerSpec{RootFs: "r", Resources: &workloadv1.Resources{}, Log: &workloadv1.LogConfig{}}, Ports: []uint32{8080},
				Action: &workloadv1.Action{Action: &workloadv1.Action_Run{Run: &workloadv1.RunAction{Path: "a", User: "u"}}},
			}},
		},
		"a definition that is wrong": {
			document: `{"definition": {"action": {}, "metric_tags": {}, "sidecars": [{"action": {}}], "volume_mounts": [{}]}}`,
			problem: "definition.volume_mounts[0].mode: must be r or rw, is \"\"\ndefinition.action: must have exactly one kind of action, has 0\n" +
				"definition.sidecars[0].action: must have exactly one kind of action, has 0\ndefinition.metric_tags: belong to the update itself, not to its definition",
		},
		"what cannot change": {document: `{"domain": "other"}`, problem: "domain: is no known member"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseDesiredLRPUpdate([]byte(test.document))
			if test.problem != "" {
				require.EqualError(t, err, test.problem)
				return
			}
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(test.want, got, protocmp.Transform(), protocmp.IgnoreEmptyMessages()))
		})
	}
}

// TestCheckAgreesWithTheDecoder never refuses what the standard library writes, and never lets through what it cannot read.
func TestCheckAgreesWithTheDecoder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[\[{]?("(instances|env|a)":|[0-9.e-]{1,4}|"[a-z]"|true|null|[,:\[\]{}]){0,12}`).Draw(t, "text")
		var out DesiredLRP
		if decode([]byte(text), &out) == nil && json.Unmarshal([]byte(text), &DesiredLRP{}) != nil {
			t.Fatalf("%q is let through", text)
		}
	})
}

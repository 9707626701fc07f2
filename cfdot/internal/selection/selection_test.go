package selection

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/cfdot/internal/fieldpath"
	"diego.internal/cfdot/internal/spec"
)

func selector(t *testing.T, text string) Selector {
	t.Helper()
	s, err := ParseSelector(text)
	require.NoError(t, err)
	return s
}

func TestInstances(t *testing.T) {
	t.Parallel()
	now := time.Unix(10_000, 0)
	one := spec.ActualLRP{
		State: "RUNNING", Presence: "SUSPECT", AvailabilityZone: "z1", CrashCount: 2, Since: now.Add(-time.Hour).UnixNano(), MetricTags: map[string]string{"app_name": "shop"},
	}
	waiting := spec.ActualLRP{State: "UNCLAIMED", Presence: "ORDINARY", PlacementError: "insufficient resources: memory"}
	for name, test := range map[string]struct {
		wanted       Instances
		one, waiting bool
	}{
		"nothing asked for is everything": {Instances{}, true, true},
		"a state":                         {Instances{States: []string{"RUNNING", "CLAIMED"}}, true, false},
		"a kind of record":                {Instances{Presences: []string{"ORDINARY"}}, false, true},
		"a zone":                          {Instances{Zones: []string{"z1"}}, true, false},
		"another zone":                    {Instances{Zones: []string{"z2"}}, false, false},
		"what crashed":                    {Instances{Crashed: true}, true, false},
		"what has no place":               {Instances{PlacementError: true}, false, true},
		"what is old":                     {Instances{OlderThan: time.Minute}, true, false},
		"what is very old":                {Instances{OlderThan: 2 * time.Hour}, false, false},
		"a tag":                           {Instances{Selector: selector(t, "app_name=shop")}, true, false},
		"another tag":                     {Instances{Selector: selector(t, "app_name!=shop")}, false, true},
		"all must hold":                   {Instances{States: []string{"RUNNING"}, Zones: []string{"z2"}}, false, false},
	} {
		require.Equal(t, test.one, test.wanted.Match(&one, now), name)
		require.Equal(t, test.waiting, test.wanted.Match(&waiting, now), name)
	}
}

func TestTasks(t *testing.T) {
	t.Parallel()
	now := time.Unix(10_000, 0)
	failed := spec.Task{State: "Completed", Failed: true, CreatedAt: now.Add(-time.Hour).UnixNano()}
	require.True(t, (&Tasks{}).Match(&failed, now))
	require.True(t, (&Tasks{Failed: true, States: []string{"Completed"}, OlderThan: time.Minute}).Match(&failed, now))
	require.False(t, (&Tasks{States: []string{"Running"}}).Match(&failed, now))
	require.False(t, (&Tasks{Failed: true}).Match(&spec.Task{State: "Completed"}, now))
	require.False(t, (&Tasks{OlderThan: 2 * time.Hour}).Match(&failed, now))
}

func TestSelector(t *testing.T) {
	t.Parallel()
	tags := map[string]string{"app_name": "shop", "space_name": "dev", "odd": "a=b"}
	tag := func(name string) string { return tags[name] }
	for text, want := range map[string]bool{
		"": true, "app_name=shop": true, "app_name=shop,space_name=dev": true, "app_name=shop,space_name=prod": false,
		"space_name!=prod": true, "nobody=": true, "nobody!=": false, "odd=a=b": true,
	} {
		require.Equal(t, want, selector(t, text).Match(tag), text)
	}
	for _, text := range []string{"app_name", "=shop", "app_name=shop,", "!=x"} {
		_, err := ParseSelector(text)
		require.ErrorIs(t, err, errCondition, text)
	}
}

func TestUntil(t *testing.T) {
	t.Parallel()
	event, err := fieldpath.Of(map[string]any{"type": "task_changed"})
	require.NoError(t, err)
	after, err := fieldpath.Of(map[string]any{"state": "RUNNING", "ports": []int{1}})
	require.NoError(t, err)
	for text, want := range map[string]bool{
		"": false, "state=RUNNING": true, "state=RUNNING,.ports[0]=1": true, "type=task_changed": true,
		"type=task_changed,state=RUNNING": false, "state!=RUNNING,type=x": false, "cell_id!=c": true,
	} {
		u, err := ParseUntil(text)
		require.NoError(t, err)
		require.Equal(t, want, u.Match(event, after), text)
	}
	_, err = ParseUntil("state")
	require.ErrorIs(t, err, errCondition)
	_, err = ParseUntil("a..b=1")
	require.Error(t, err)
}

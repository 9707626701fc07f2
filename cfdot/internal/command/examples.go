package command

import (
	"strings"

	"github.com/spf13/cobra"
)

// examples are the command lines in the help of each command that has none beside its definition.
func examples() map[string][]string {
	return map[string][]string{
		"desired-lrps":                 {"cfdot desired-lrps -d cf-apps", "cfdot desired-lrps | jq -r .process_guid", "cfdot desired-lrps | jq 'select(.memory_mb > 1024) | {process_guid, memory_mb}'"},
		"desired-lrp":                  {"cfdot desired-lrp my-app | jq .routes", "cfdot desired-lrp my-app --show-secrets | jq .environment_variables", "cfdot desired-lrp my-app -o table"},
		"desired-lrp-scheduling-infos": {"cfdot desired-lrp-scheduling-infos -d cf-apps", "cfdot desired-lrp-scheduling-infos | jq -s 'map(.instances) | add'", "cfdot desired-lrp-scheduling-infos | jq -r 'select(.placement_tags) | .process_guid'"},
		"create-desired-lrp":           {"cfdot create-desired-lrp @app.json", "cfdot desired-lrp my-app | jq '{process_guid: \"copy\", domain, rootfs, instances, action}' | cfdot create-desired-lrp @-", `cfdot create-desired-lrp '{"process_guid": "my-app", "domain": "d", "rootfs": "preloaded:cflinuxfs4", "instances": 1, "action": {"run": {"path": "/app", "user": "vcap"}}}'`},
		"update-desired-lrp":           {`cfdot update-desired-lrp my-app '{"instances": 5}'`, "cfdot update-desired-lrp my-app @change.json", "jq '{routes}' app.json | cfdot update-desired-lrp my-app @-"},
		"delete-desired-lrp":           {"cfdot delete-desired-lrp my-app", "cfdot desired-lrps -d old | jq -r .process_guid | xargs -n 1 cfdot delete-desired-lrp", "cfdot delete-desired-lrp my-app --timeout 60"},
		"retire-actual-lrp":            {"cfdot retire-actual-lrp my-app 0", "cfdot actual-lrps -c cell-1 | jq -r '\"\\(.process_guid) \\(.index)\"' | xargs -n 2 cfdot retire-actual-lrp", "cfdot retire-actual-lrp my-app 3 --timeout 60"},
		"plan":                         {"cfdot plan my-app 10", "cfdot plan my-app 500 -o json | jq .unplaced", "cfdot plan my-app 100 -o json | jq .instances_by_zone"},
		"domains":                      {"cfdot domains", "cfdot domains -o table", "cfdot domains | grep -q '\"cf-apps\"' && echo fresh"},
		"set-domain":                   {"cfdot set-domain cf-apps -t 2m", "cfdot set-domain cf-tasks", "cfdot set-domain cf-apps -t 1s"},
		"tasks":                        {"cfdot tasks -d cf-tasks", "cfdot tasks -c cell-1", "cfdot tasks | jq 'select(.failed) | {task_guid, failure_reason}'"},
		"task":                         {"cfdot task my-task", "cfdot task my-task | jq -r .result", "cfdot task my-task --show-secrets | jq .environment_variables"},
		"create-task":                  {"cfdot create-task @task.json", "jq '.task_guid = \"again\"' task.json | cfdot create-task @-", `cfdot create-task '{"task_guid": "my-task", "domain": "d", "rootfs": "preloaded:cflinuxfs4", "action": {"run": {"path": "/bin/date", "user": "vcap"}}}'`},
		"cancel-task":                  {"cfdot cancel-task my-task", "cfdot tasks -d old | jq -r .task_guid | xargs -n 1 cfdot cancel-task", "cfdot cancel-task my-task && cfdot delete-task my-task"},
		"delete-task":                  {"cfdot delete-task my-task", "cfdot tasks | jq -r 'select(.state == \"Completed\") | .task_guid' | xargs -n 1 cfdot delete-task", "cfdot cancel-task my-task && cfdot delete-task my-task"},
		"cells":                        {"cfdot cells", "cfdot cells -o json | jq -r .zone | sort | uniq -c", "cfdot cells -o wide"},
		"cell":                         {"cfdot cell cell-1", "cfdot cell cell-1 | jq .rootfs_provider_list", "cfdot cell cell-1 -o table"},
		"cell-state":                   {"cfdot cell-state cell-1 | jq .AvailableResources", "cfdot cell-state cell-1 | jq '.LRPs | length'", "cfdot cell-state cell-1 -o table"},
		"cell-states":                  {"cfdot cell-states -o table", "cfdot cell-states | jq 'select(.Evacuating) | .cell_id'", "cfdot cell-states --timeout 3 | jq '{cell_id, free: .AvailableResources.MemoryMB}'"},
		"evacuate":                     {"cfdot evacuate cell-1 --yes", "cfdot evacuate cell-1 --yes -o json | jq .remaining_lrps", "cfdot evacuate cell-1 --yes | tail -1"},
		"lrp-events":                   {"cfdot lrp-events | jq -c '[.revision, .type]'", "cfdot lrp-events -p my-app --for 30s", "cfdot lrp-events --after 4711 | jq 'select(.type == \"actual_lrp_crashed\")'"},
		"task-events":                  {"cfdot task-events | jq -c '[.revision, .type]'", "cfdot task-events -c cell-1", "cfdot task-events --for 1m | jq 'select(.data.after.failed)'"},
		"locks":                        {"cfdot locks", "cfdot locks -o json | jq '{key, owner}'", "cfdot locks -o wide"},
		"presences":                    {"cfdot presences", "cfdot presences -o json | jq -r .key", "cfdot presences -o wide"},
		"claim-lock":                   {"cfdot claim-lock -k test -o me -t 30", "cfdot claim-lock -k test -o me -v 'a note' -t 30", "cfdot claim-lock --key test --owner me --ttl 5"},
		"claim-presence":               {"cfdot claim-presence -k cell-9 -o me -t 30", "cfdot claim-presence -k cell-9 -o me -v '{}' -t 30", "cfdot claim-presence --key cell-9 --owner me --ttl 5"},
		"release-lock":                 {"cfdot release-lock -k test -o me", "cfdot release-lock --key test --owner me", "cfdot claim-lock -k test -o me -t 5 && cfdot release-lock -k test -o me"},
	}
}

// addExamples gives the commands their examples.
func addExamples(commands []*cobra.Command) {
	lines := examples()
	for _, command := range commands {
		if command.Example == "" && len(lines[command.Name()]) > 0 {
			command.Example = "  " + strings.Join(lines[command.Name()], "\n  ")
		}
	}
}

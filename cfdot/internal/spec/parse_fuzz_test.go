package spec

import "testing"

// FuzzParse reads any file that an operator may name. What is refused says why, field by field.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"process_guid":"a","domain":"d","instances":1,"root_fs":"preloaded:a","action":{"run":{"path":"/bin/sh","user":"vcap"}}}`,
		`{"task_guid":"t","domain":"d","root_fs":"preloaded:a","action":{"run":{"path":"/bin/sh","user":"vcap"}}}`,
		`{"instances":2,"routes":{"cf-router":[{"hostnames":["a"],"port":8080}]}}`, `{"instances":1.5}`, `{"action":{"run":{},"try":{}}}`, `[]`, `{`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if lrp, err := ParseDesiredLRP(text); (lrp == nil) == (err == nil) {
			t.Fatalf("a desired LRP: %v, %v", lrp, err)
		}
		if update, err := ParseDesiredLRPUpdate(text); (update == nil) == (err == nil) {
			t.Fatalf("an update: %v, %v", update, err)
		}
		if task, err := ParseTask(text); (task == nil) == (err == nil) {
			t.Fatalf("a task: %v, %v", task, err)
		}
	})
}

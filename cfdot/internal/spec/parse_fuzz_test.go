package spec

import "testing"

// FuzzParse reads any file that an operator may name: a document, or an error.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"process_guid":"a","domain":"d","instances":1,"root_fs":"preloaded:a","action":{"run":{"path":"/bin/sh","user":"vcap"}}}`,
		`{"task_guid":"t","domain":"d","root_fs":"preloaded:a","action":{"run":{"path":"/bin/sh","user":"vcap"}}}`,
		`{"instances":2,"routes":{"cf-router":[{"hostnames":["a"],"port":8080}]}}`, `{"instances":1.5}`, `{"action":{"run":{},"try":{}}}`, `[]`, `{`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if lrp, err := ParseDesiredLRP(text); err == nil && lrp == nil {
			t.Fatal("neither a desired LRP nor an error")
		}
		if update, err := ParseDesiredLRPUpdate(text); err == nil && update == nil {
			t.Fatal("neither an update nor an error")
		}
		if task, err := ParseTask(text); err == nil && task == nil {
			t.Fatal("neither a task nor an error")
		}
	})
}

package lrp

import (
	"testing"
)

func TestConcealedValuesCompareAsTheyAre(t *testing.T) {
	t.Parallel()
	key, other := []byte(`{"private_key":"k"}`), []byte(`{"private_key":"o"}`)
	if !IsConcealed(Conceal(key)) || IsConcealed(key) {
		t.Error("what is concealed is not told from what is not")
	}
	for name, test := range map[string]struct {
		a, b []byte
		want bool
	}{
		"open, the same":         {key, key, true},
		"open, others":           {key, other, false},
		"concealed, the same":    {Conceal(key), Conceal(key), true},
		"concealed, others":      {Conceal(key), Conceal(other), false},
		"one concealed":          {Conceal(key), key, true},
		"the other concealed":    {key, Conceal(key), true},
		"one concealed, another": {Conceal(key), other, false},
	} {
		if got := (Route{"r", test.a}).equal(Route{"r", test.b}); got != test.want {
			t.Errorf("%s: equal is %v", name, got)
		}
	}
	concealed := Conceal(key)
	if again := Conceal(concealed); &again[0] != &concealed[0] {
		t.Error("what is concealed was concealed again")
	}
}

func TestAnUpdateToTheSameSecretChangesNothing(t *testing.T) {
	t.Parallel()
	before := desired(1)
	key := []byte(`{"private_key":"k"}`)
	before.Routes = []Route{{"diego-ssh", Conceal(key)}}
	change, err := ApplyUpdate(before, Update{Routes: &[]Route{{"diego-ssh", key}}}, nil, at)
	if err != nil || change.Desired != before || change.Event != nil {
		t.Errorf("changed to %+v, %v", change.Desired, err)
	}
}

package storetest

import (
	"errors"
	"testing"

	"github.com/anishathalye/porcupine"
)

// TestModel shows that the model takes what may happen and refuses what may not: a check that finds nothing must be able to.
func TestModel(t *testing.T) {
	t.Parallel()
	put := func(value string, conds ...cond) input {
		in := input{ops: [keysPerGroup]op{{kind: opPut, value: value}}}
		copy(in.conds[:], conds)
		return in
	}
	ok := func(revision int64) output { return output{succeeded: true, revision: revision} }
	read := input{read: 1}
	saw := func(value string, revision, version int64) output {
		return output{shown: 1, cells: [keysPerGroup]cell{{value: value, revision: revision, version: version}}}
	}
	lost := output{err: errors.New("who knows")}
	is := func(value string) cond { return cond{kind: condValue, value: value} }
	type call = porcupine.Operation
	cases := []struct {
		name    string
		history []call
		want    bool
	}{
		{"read your write", []call{{Input: put("1"), Output: ok(5), Call: 1, Return: 2}, {Input: read, Output: saw("1", 5, 1), Call: 3, Return: 4}}, true},
		{"stale read", []call{{Input: put("1"), Output: ok(5), Call: 1, Return: 2}, {Input: read, Output: saw("", 0, 0), Call: 3, Return: 4}}, false},
		{"read while written", []call{{Input: put("1"), Output: ok(5), Call: 1, Return: 4}, {Input: read, Output: saw("", 0, 0), Call: 2, Return: 3}}, true},
		{"wrong revision", []call{{Input: put("1"), Output: ok(5), Call: 1, Return: 2}, {Input: read, Output: saw("1", 6, 1), Call: 3, Return: 4}}, false},
		{"revision goes back", []call{{Input: put("1"), Output: ok(5), Call: 1, Return: 2}, {Input: put("2"), Output: ok(4), Call: 3, Return: 4}}, false},
		{"lost update", []call{{Input: put("1"), Output: ok(5), Call: 1, Return: 2}, {Input: put("2", is("1")), Output: ok(6), Call: 3, Return: 6}, {Input: put("3", is("1")), Output: ok(7), Call: 4, Return: 7}}, false},
		{"unknown, took effect", []call{{Input: put("1"), Output: lost, Call: 1, Return: forever}, {Input: read, Output: saw("1", 9, 1), Call: 3, Return: 4}}, true},
		{"unknown, later", []call{{Input: put("1"), Output: lost, Call: 1, Return: forever}, {Input: read, Output: saw("", 0, 0), Call: 3, Return: 4}, {Input: read, Output: saw("1", 9, 1), Call: 5, Return: 6}}, true},
		{"unknown, twice", []call{{Input: put("1"), Output: lost, Call: 1, Return: forever}, {Input: put("2"), Output: ok(5), Call: 2, Return: 3}, {Input: read, Output: saw("1", 6, 2), Call: 4, Return: 5}, {Input: put("3"), Output: ok(7), Call: 6, Return: 7}, {Input: read, Output: saw("1", 8, 4), Call: 8, Return: 9}}, false},
		{"half of a transaction", []call{
			{Input: input{ops: [keysPerGroup]op{{kind: opPut, value: "1"}, {kind: opPut, value: "2"}}}, Output: ok(5), Call: 1, Return: 4},
			{Input: input{read: 7}, Output: output{shown: 7, cells: [keysPerGroup]cell{{value: "1", revision: 5, version: 1}}}, Call: 2, Return: 3},
		}, false},
	}
	for _, c := range cases {
		if got := porcupine.CheckOperations(model(), c.history); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

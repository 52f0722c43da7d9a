package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

const vmService = "limiquantix.compute.v1.VMService/"

// Every wrong request has its status, its reason and the field at fault, over plain HTTP; nothing is made.
func TestBadInputOverHTTP(t *testing.T) {
	s := common(t)
	for _, tc := range []struct {
		name, method, body string
		noToken            bool
		status             int
		want               []string
	}{
		{name: "no token", method: "ListVMs", body: "{}", noToken: true, status: http.StatusUnauthorized, want: []string{"UNAUTHENTICATED"}},
		{name: "unknown field", method: "ListVMs", body: `{"pageSise": 1}`, status: http.StatusBadRequest, want: []string{"UNKNOWN_FIELD", "pageSise"}},
		{name: "not JSON", method: "ListVMs", body: `{`, status: http.StatusBadRequest},
		{
			name: "every field", method: "CreateVM", body: `{"vm":{"meta":{"name":"Bad Name"},"spec":{"memoryBytes":"1","cpu":{"vcpus":-1},"disks":[{"name":"x"}]}}}`, status: http.StatusBadRequest,
			want: []string{"INVALID_FIELD", "vm.meta.name", "vm.spec.memory_bytes", "vm.spec.cpu.vcpus", "vm.spec.disks[0]"},
		},
		{name: "unknown image", method: "CreateVM", body: `{"vm":{"meta":{"name":"x"},"spec":{"memoryBytes":"134217728","boot":{"kernel":{"kernelImage":"nope"}}}}}`, status: http.StatusBadRequest, want: []string{"kernel_image"}},
		{name: "a path as an id", method: "GetVM", body: `{"id":"../../etc/passwd"}`, status: http.StatusNotFound},
		{name: "absent", method: "GetVM", body: `{"id":"absent"}`, status: http.StatusNotFound, want: []string{"NOT_FOUND"}},
		{name: "bad page token", method: "ListVMs", body: `{"pageToken":"x"}`, status: http.StatusBadRequest, want: []string{"BAD_PAGE_TOKEN"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status, answer, err := s.Post(t.Context(), vmService+tc.method, []byte(tc.body), !tc.noToken)
			if err != nil {
				t.Fatal(err)
			}
			if status != tc.status {
				t.Errorf("status %d, want %d: %s", status, tc.status, answer)
			}
			for _, w := range tc.want {
				if !strings.Contains(string(answer), w) {
					t.Errorf("answer lacks %s: %s", w, answer)
				}
			}
		})
	}
	if out := lq(t, s, "vm", "list", "-o", "name"); strings.Contains(out, "vm/x") {
		t.Error("something was made:", out)
	}
}

// The same request id has one effect and one answer; with another body it is refused. A name is unique; a stale etag is refused.
func TestRepeatedAndStaleRequests(t *testing.T) {
	s := common(t)
	create := map[string]any{"requestId": "r1-" + t.Name(), "vm": map[string]any{
		"meta": map[string]any{"name": "twice"},
		"spec": map[string]any{"memoryBytes": "134217728", "desiredPower": "POWER_STATE_STOPPED", "boot": map[string]any{"kernel": map[string]any{"kernelImage": "vmlinuz"}}},
	}}
	var answers [2]struct {
		VM        struct{ Meta struct{ ID, Etag string } } `json:"vm"`
		Operation struct{ ID string }
	}
	for i := range answers {
		if err := s.Call(t.Context(), vmService+"CreateVM", create, &answers[i]); err != nil {
			t.Fatal(err)
		}
	}
	defer lq(t, s, "vm", "delete", "twice")
	if answers[0].VM.Meta.ID == "" || answers[0].VM.Meta.ID != answers[1].VM.Meta.ID || answers[0].Operation.ID != answers[1].Operation.ID {
		t.Errorf("%+v, then %+v", answers[0], answers[1])
	}
	refused := func(name, method string, body any, status int, reason string) {
		t.Helper()
		b, _ := json.Marshal(body)
		got, answer, err := s.Post(t.Context(), vmService+method, b, true)
		if err != nil || got != status || !strings.Contains(string(answer), reason) {
			t.Errorf("%s: %d %s %v, want %d %s", name, got, answer, err, status, reason)
		}
	}
	create["vm"].(map[string]any)["meta"].(map[string]any)["name"] = "other"
	refused("other body", "CreateVM", create, http.StatusConflict, "REQUEST_ID_REUSED")
	create["requestId"] = "r2-" + t.Name()
	create["vm"].(map[string]any)["meta"].(map[string]any)["name"] = "twice"
	refused("same name", "CreateVM", create, http.StatusConflict, "NAME_TAKEN")
	lq(t, s, "op", "wait", answers[0].Operation.ID)
	lq(t, s, "vm", "set", "twice", "--label", "a=b")
	refused("stale etag", "UpdateVM", map[string]any{
		"vm": map[string]any{"meta": map[string]any{"id": answers[0].VM.Meta.ID, "etag": answers[0].VM.Meta.Etag, "labels": map[string]string{"a": "c"}}}, "updateMask": "meta.labels",
	}, http.StatusConflict, "STALE_ETAG")
}

// Delete during create and start during delete end by themselves.
func TestCrossedRequests(t *testing.T) {
	s := common(t)
	before := hostState(t, s)
	for range 5 {
		lq(t, s, append(small("crossed", ""), "--no-wait")...)
		lq(t, s, "vm", "delete", "crossed")
	}
	lq(t, s, append(small("crossed", ""), "--stopped")...)
	lq(t, s, "vm", "delete", "crossed", "--no-wait")
	_, err := s.LQCtl(t.Context(), "vm", "start", "crossed")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 5 && exit.ExitCode() != 3 {
		t.Errorf("start of what is being deleted: %v", err)
	}
	lq(t, s, "vm", "wait", "crossed", "--for", "deleted", "--timeout", "60s")
	if after := hostState(t, s); after != before {
		t.Errorf("left behind; before:\n%s\nafter:\n%s", before, after)
	}
}

// A VM that fits nowhere waits, says why, and is placed when room appears.
func TestPendingIsPlacedWhenRoomAppears(t *testing.T) {
	s := common(t)
	lq(t, s, "node", "cordon", s.Name)
	uncordoned := false
	defer func() {
		if !uncordoned {
			lq(t, s, "node", "uncordon", s.Name)
		}
	}()
	lq(t, s, append(small("waits", ""), "--no-wait")...)
	defer lq(t, s, "vm", "delete", "waits")
	phase(t, s, "waits", "VM_PHASE_PENDING")
	if out := lq(t, s, "vm", "explain", "waits"); !strings.Contains(out, "cordon") {
		t.Error(out)
	}
	lq(t, s, "node", "uncordon", s.Name)
	uncordoned = true
	lq(t, s, "vm", "wait", "waits", "--for", "running", "--timeout", "60s")
}

package domain_test

import (
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func TestSelector(t *testing.T) {
	t.Parallel()
	labels := map[string]string{"a": "b", "x.example/e": ""}
	for text, want := range map[string]bool{
		"": true, "a=b": true, "a==b": true, "a = b": true, "a=c": false, "a!=c": true, "a!=b": false, "z!=b": true, "a": true, "z": false, "!z": true,
		"!a": false, "a=b,x.example/e,!z": true, "a=b,z": false, "x.example/e=": true,
	} {
		s, err := domain.ParseSelector(text)
		if err != nil || s.Matches(labels) != want {
			t.Errorf("%q: %v, %v", text, err, !want)
		}
	}
	for _, text := range []string{",", "=a", "a=b c", "a=b,", "a b", "!", "a=b=c", "/a"} {
		if _, err := domain.ParseSelector(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestPageToken(t *testing.T) {
	t.Parallel()
	id := domain.NewID(time.Now())
	a, b := &computev1.ListVMsRequest{LabelSelector: "a"}, &computev1.ListVMsRequest{LabelSelector: "b"}
	token := domain.PageToken(a, id)
	if got, err := domain.ReadPageToken(a, token); err != nil || got != id {
		t.Fatalf("%q, %v", got, err)
	}
	for _, bad := range []string{"x", token[1:], token + "AA", "////", "AAAAAAAAAAAAAAAA"} {
		if _, err := domain.ReadPageToken(a, bad); !fault.Is(err, metav1.Reason_REASON_BAD_PAGE_TOKEN) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := domain.ReadPageToken(b, token); !fault.Is(err, metav1.Reason_REASON_BAD_PAGE_TOKEN) {
		t.Errorf("another query: %v", err)
	}
}

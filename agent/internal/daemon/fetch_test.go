package daemon

import (
	"net/http"
	"net/http/httptest"
	"testing"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// An image is fetched from its URL, once; what a source must not be is refused for good; a copy that is there is not fetched again.
func TestImageIsFetched(t *testing.T) {
	l := newLab(t)
	asked := make(chan struct{}, 8)
	src := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		_, _ = w.Write(make([]byte, 600_000))
	}))
	defer src.Close()
	image := func(id, url string) *agentv1.DesiredObject {
		return &agentv1.DesiredObject{
			Key: &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_IMAGE, Id: id + "/" + poolID},
			Object: &agentv1.DesiredObject_Image{Image: &agentv1.DesiredImage{
				Image:  &storagev1.Image{Meta: &metav1.ObjectMeta{Id: id, Generation: 1}, Spec: &storagev1.ImageSpec{SourceUrl: url}},
				PoolId: poolID, Epoch: 1, Content: &agentv1.DesiredImage_Fetch{Fetch: true},
			}},
		}
	}
	good, bad := "99999999-0000-4000-8000-000000000000", "88888888-0000-4000-8000-000000000000"
	l.ctrl.set(pool())
	l.ctrl.set(image(good, src.URL))
	l.ctrl.wait("the image", func() bool {
		r := l.ctrl.images[good]
		return r.GetReady() && r.GetContentBytes() == 600_000 && r.GetEpoch() == 1
	})
	l.ctrl.set(image(bad, "http://10.0.0.1/x"))
	l.ctrl.wait("the refusal", func() bool {
		r := l.ctrl.images[bad]
		return r.GetPermanentFailure() && r.GetReason() == "SOURCE_REFUSED"
	})
	l.stop()
	l.start()
	l.ctrl.wait("the image again", func() bool { return l.ctrl.images[good].GetReady() })
	if len(asked) != 1 {
		t.Errorf("the source was asked %d times", len(asked))
	}
}

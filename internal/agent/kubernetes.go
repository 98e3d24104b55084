package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sessapi/sessapi/internal/keys"
	"github.com/sessapi/sessapi/internal/kubernetes"
	"github.com/sessapi/sessapi/internal/yamlfile"
)

// kubernetesObject is a Secret or a ConfigMap of Kubernetes, from which the servers of a
// cluster read their keys. It is written by server-side apply. All agents have the same
// field manager, so that two with the same target write the same.
var kubernetesObject = kind{
	check: (*Target).checkObject,
	holder: func(t *Target, _ *fileHolder, _ asker, _ func()) holder {
		return &objectHolder{client: kubernetes.New(t.cluster, time.Duration(t.Timeout)), object: t.object(), layout: t.layout}
	},
}

const (
	fieldManager = "sessapi-agent"
	// generationAnnotation is the generation of the service at the last change. An agent
	// that cannot reach the service does not put its older keys back.
	generationAnnotation = "sessapi/generation"
	// maxApplies is how often a change is tried while others change the object.
	maxApplies = 5
)

// layout is how the servers read an object.
type layout struct {
	configMap   bool // not a Secret
	annotations map[string]string
	entries     func(keys.Set) []kubernetes.Entry
}

var layouts = map[string]*layout{
	// Cilium's Envoy encrypts with the first key (getTLSSessionTicketKeys in
	// pkg/envoy/secretsync.go).
	"cilium": {entries: func(set keys.Set) []kubernetes.Entry {
		const name, most = "tls.sessionticket.key", 10
		entries := []kubernetes.Entry{{Name: name}}
		for n := 1; n < min(most, setSize(set)); n++ {
			entries = append(entries, kubernetes.Entry{Name: name + "." + strconv.Itoa(n)})
		}
		for i := range entries {
			entries[i].Content = oneKey(keys.Envoy, set, i)
		}
		return entries
	}},
	// An SDS resource, for Envoy with the object as a volume.
	"envoy": {entries: func(set keys.Set) []kubernetes.Entry {
		return []kubernetes.Entry{{Name: "ticket-keys.yaml", Content: envoySecret(set, 0)}}
	}},
	// ingress-nginx writes the entry to the file of an ssl_session_ticket_key
	// (WriteSSLTicketFile).
	"ingress-nginx": {configMap: true, entries: func(set keys.Set) []kubernetes.Entry {
		return []kubernetes.Entry{{Name: "ssl-session-ticket-key", Content: oneKey(keys.NGINX, set, 0)}}
	}},
	// nghttpx-ingress-lb encrypts with the first key of 48 bytes, and wants two of them
	// (VerifyTLSTicketKey). Its controller makes keys of its own when the annotation is
	// missing or its time is too long ago.
	"nghttpx-ingress": {
		annotations: map[string]string{"ingress.zlab.co.jp/tls-ticket-key-update-timestamp": "2200-01-01T00:00:00Z"},
		entries: func(set keys.Set) []kubernetes.Entry {
			content := keys.ATS.Append(nil, set)
			if setSize(set) == 1 {
				twice := bytes.Repeat(content, 2)
				clear(content)
				content = twice
			}
			return []kubernetes.Entry{{Name: "nghttpx-tls-ticket-key", Content: content}}
		},
	},
}

// Entry is the format of an entry, and the number of its key in a format of one key a
// file.
type Entry struct {
	Format string `yaml:"format"`
	Key    *int   `yaml:"key"`
}

func setSize(set keys.Set) int {
	if set.Next != nil {
		return len(set.Keys) + 1
	}
	return len(set.Keys)
}

// oneKey returns a file with one key of the set, or with the current one if the set has
// fewer keys: a server may insist on the file, and an old one may hold a revoked key.
func oneKey(f keys.Format, set keys.Set, i int) []byte {
	content, err := f.AppendKey(nil, set, i)
	if err != nil {
		content, _ = f.AppendKey(nil, set, 0) // every set has a current key
	}
	return content
}

var (
	dnsName   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	dnsLabel  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	entryName = regexp.MustCompile(`^[-._a-zA-Z0-9]{1,253}$`)
)

// checkObject fills in the defaults and checks the settings of a target of kind kubernetes.
func (t *Target) checkObject(fail failure) error {
	if err := t.only(fail, "configmap", "context", "entries", "kubeconfig", "layout", "namespace", "secret"); err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(layouts))
	switch {
	case (t.Secret == "") == (t.ConfigMap == ""):
		return fail("secret", "give either secret or, for ingress-nginx, configmap")
	case !dnsName.MatchString(t.Secret + t.ConfigMap):
		return fail("secret", "%q is not a valid name in Kubernetes: want lower-case letters, digits, dashes and dots", t.Secret+t.ConfigMap)
	case t.Context != "" && t.Kubeconfig == "":
		return fail("context", "goes with kubeconfig")
	case (t.Layout == "") == (len(t.Entries) == 0):
		return fail("layout", "give one of %s, or entries", strings.Join(names, ", "))
	}
	if t.Layout != "" {
		if t.layout = layouts[t.Layout]; t.layout == nil {
			return fail("layout", "%q must be one of %s%s", t.Layout, strings.Join(names, ", "), yamlfile.Suggest(t.Layout, names))
		}
	} else if err := t.checkEntries(fail); err != nil {
		return err
	}
	switch {
	case t.layout.configMap && t.ConfigMap == "":
		return fail("secret", "ingress-nginx reads its configmap")
	case !t.layout.configMap && t.ConfigMap != "":
		return fail("configmap", "goes with layout ingress-nginx only: use a secret")
	}
	var err error
	if t.Kubeconfig == "" {
		if t.cluster, err = kubernetes.InCluster(); err != nil {
			return fail("kubeconfig", "there is none, and the agent is %v", err)
		}
	} else if t.cluster, err = kubernetes.Kubeconfig(t.Kubeconfig, t.Context); err != nil {
		return fail("kubeconfig", "%v", err)
	}
	if t.Namespace == "" {
		t.Namespace = t.cluster.Namespace
	}
	if !dnsLabel.MatchString(t.Namespace) {
		return fail("namespace", "%q is no name of a namespace", t.Namespace)
	}
	return nil
}

// checkEntries makes a layout of the entries.
func (t *Target) checkEntries(fail failure) error {
	formats := map[string]keys.Format{}
	names := slices.Sorted(maps.Keys(t.Entries))
	for _, name := range names {
		e := t.Entries[name]
		f, err := keys.ParseFormat(e.Format)
		switch {
		case !entryName.MatchString(name) || name == "." || name == "..":
			return fail("entries", "%q must be 1 to 253 letters, digits, dots, underscores and dashes", name)
		case err != nil:
			return fail("entries", "%s: unknown format %q; see sessapi keys convert --help", name, e.Format)
		case f.OneKey() && e.Key == nil:
			return fail("entries", "%s: key: give the number of the key: %s holds one; 0 encrypts", name, f)
		case !f.OneKey() && e.Key != nil:
			return fail("entries", "%s: key: does not go with %s, which holds all keys", name, f)
		case e.Key != nil && (*e.Key < 0 || *e.Key >= keys.MaxKeys):
			return fail("entries", "%s: key: must be 0 to %d", name, keys.MaxKeys-1)
		}
		formats[name] = f
	}
	t.layout = &layout{entries: func(set keys.Set) []kubernetes.Entry {
		entries := make([]kubernetes.Entry, len(names))
		for i, name := range names {
			entries[i].Name = name
			if key := t.Entries[name].Key; key != nil {
				entries[i].Content = oneKey(formats[name], set, *key)
			} else {
				entries[i].Content = formats[name].Append(nil, set)
			}
		}
		return entries
	}}
	return nil
}

// object returns the object that the target writes.
func (t *Target) object() kubernetes.Reference {
	if t.ConfigMap != "" {
		return kubernetes.Reference{Kind: kubernetes.ConfigMap, Namespace: t.Namespace, Name: t.ConfigMap}
	}
	return kubernetes.Reference{Kind: kubernetes.Secret, Namespace: t.Namespace, Name: t.Secret}
}

// objectHolder is an object. It is current once the API server has it.
type objectHolder struct {
	client *kubernetes.Client
	object kubernetes.Reference
	layout *layout

	// What the last Holds found, on which Apply depends.
	version string
	err     error // why Apply must not or cannot write
}

// Holds is part of [holder].
func (h *objectHolder) Holds(ctx context.Context, w *wanted) (holds bool, err error) {
	o, err := h.client.Get(ctx, h.object)
	defer o.Wipe()
	if err == nil {
		holds, err = h.holds(o, w)
	}
	h.version, h.err = o.Version(), h.explain(err)
	return holds, h.err
}

// Apply is part of [holder]. It takes entries from field managers that wrote them once,
// but not from those that apply them, which would put theirs back.
func (h *objectHolder) Apply(ctx context.Context, w *wanted) error {
	for attempt := 1; ; attempt++ {
		if h.err != nil {
			return h.err
		}
		err := h.apply(ctx, w)
		if e, ok := errors.AsType[*kubernetes.Error](err); !ok || !e.Conflict() || attempt == maxApplies {
			return h.explain(err)
		}
		if holds, err := h.Holds(ctx, w); err == nil && holds {
			return nil
		}
	}
}

func (h *objectHolder) apply(ctx context.Context, w *wanted) error {
	annotations := map[string]string{generationAnnotation: strconv.FormatUint(w.generation, 10)}
	maps.Copy(annotations, h.layout.annotations)
	return h.client.Apply(ctx, h.object, fieldManager, h.version, annotations, w.entries)
}

// explain names the object in an error, and removes what may be a secret from it.
func (h *objectHolder) explain(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*kubernetes.Error](err); ok {
		e.Message = redacted(e.Message)
	}
	return fmt.Errorf("%s: %w", h.object, err)
}

// holds compares an object, which is nil if there is none, with the wanted entries. The
// error says why they must not be applied.
func (h *objectHolder) holds(o *kubernetes.Object, w *wanted) (bool, error) {
	if o == nil {
		return false, nil
	}
	names := make([]string, len(w.entries))
	same := true
	for i, e := range w.entries {
		names[i] = e.Name
		if o.Has(e) {
			continue
		}
		same = false
		for _, other := range o.Appliers(e.Name) {
			if other != fieldManager {
				return false, fmt.Errorf("the field manager %q applies the entry %s, too: remove the entry from what it applies", other, e.Name)
			}
		}
	}
	for name, value := range h.layout.annotations {
		same = same && o.Annotation(name) == value
	}
	slices.Sort(names)
	if same && slices.Equal(names, o.Applied(fieldManager)) {
		return true, nil
	}
	if newer, err := strconv.ParseUint(o.Annotation(generationAnnotation), 10, 64); err == nil && newer > w.generation {
		return false, fmt.Errorf("another agent wrote keys of generation %d, which are newer than %d, those of this agent; "+
			"if the service was restored from a backup, sessapi keys rotate makes newer ones", newer, w.generation)
	}
	return false, nil
}

package kubernetes

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/sessapi/sessapi/internal/files"
)

const (
	// serviceAccount is where Kubernetes mounts the credentials of a pod.
	serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

	maxKubeconfig = 1 << 20 // bytes
	maxToken      = 16 << 10
	maxName       = 253 // of a namespace, and more
)

// Config says how to reach an API server.
type Config struct {
	Server    string // https://HOST:PORT
	Namespace string // of the pod, or of the context of a kubeconfig

	serverName string // if it is not the host of Server
	ca         source // none for those that the system trusts
	token      source
	cert, key  source
}

// source is a file that is read for each use, because it may be replaced, or its content.
type source struct {
	path string
	data []byte
}

func (s source) given() bool { return s.path != "" || s.data != nil }

// read returns the content, which the caller must not change.
func (s source) read(limit int) ([]byte, error) {
	if s.path == "" {
		return s.data, nil
	}
	data, _, err := files.Read(s.path, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return data, nil
}

// InCluster returns the configuration that Kubernetes gives to a pod.
func InCluster() (*Config, error) { return inCluster(serviceAccount, os.Getenv) }

func inCluster(dir string, getenv func(string) string) (*Config, error) {
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("not in a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
	}
	c := &Config{
		Server: "https://" + net.JoinHostPort(host, port),
		ca:     source{path: filepath.Join(dir, "ca.crt")},
		token:  source{path: filepath.Join(dir, "token")},
	}
	// A pod without the mount gets an error that says so once the token is read.
	if namespace, _, err := files.Read(filepath.Join(dir, "namespace"), maxName); err == nil {
		c.Namespace = strings.TrimSpace(string(namespace))
	}
	return c, nil
}

// kubeconfig is the part of a kubeconfig file that is used or refused.
type kubeconfig struct {
	Current  string `yaml:"current-context"`
	Contexts []struct {
		Name    string
		Context struct{ Cluster, User, Namespace string }
	}
	Clusters []struct {
		Name    string
		Cluster cluster
	}
	Users []struct {
		Name string
		User user
	}
}

type cluster struct {
	Server     string
	ServerName string `yaml:"tls-server-name"`
	Insecure   bool   `yaml:"insecure-skip-tls-verify"`
	CA         string `yaml:"certificate-authority"`
	CAData     string `yaml:"certificate-authority-data"`
	Proxy      string `yaml:"proxy-url"`
}

type user struct {
	Token     string
	TokenFile string `yaml:"tokenFile"`
	Cert      string `yaml:"client-certificate"`
	CertData  string `yaml:"client-certificate-data"`
	Key       string `yaml:"client-key"`
	KeyData   string `yaml:"client-key-data"`
	Username  string
	As        string
	Exec      any
	Provider  any `yaml:"auth-provider"`
}

// Kubeconfig reads the configuration of a context, or of the current one for "". It reads
// all files that the kubeconfig names, to report those that are missing.
func Kubeconfig(path, context string) (*Config, error) {
	data, _, err := files.ReadText(path, maxKubeconfig)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer clear(data)
	c, err := parseKubeconfig(data, filepath.Dir(path), context)
	if err == nil {
		_, err = c.tls()
	}
	if err == nil {
		_, err = c.bearer()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// parseKubeconfig reads a kubeconfig. Relative paths in it start at dir. Its errors do not
// repeat values, which may be secrets.
func parseKubeconfig(data []byte, dir, context string) (*Config, error) {
	var k kubeconfig
	if err := yaml.Unmarshal(data, &k); err != nil {
		if located, ok := errors.AsType[yaml.Error](err); ok && located.GetToken() != nil {
			return nil, fmt.Errorf("line %d: is no kubeconfig", located.GetToken().Position.Line)
		}
		return nil, errors.New("is no kubeconfig")
	}
	if context = cmp.Or(context, k.Current); context == "" {
		return nil, errors.New("has no current-context: set context")
	}
	var of struct{ Cluster, User, Namespace string }
	var in *cluster
	var by *user
	for i := range k.Contexts {
		if k.Contexts[i].Name == context {
			of = k.Contexts[i].Context
		}
	}
	for i := range k.Clusters {
		if k.Clusters[i].Name == of.Cluster {
			in = &k.Clusters[i].Cluster
		}
	}
	for i := range k.Users {
		if k.Users[i].Name == of.User {
			by = &k.Users[i].User
		}
	}
	switch {
	case of.Cluster == "":
		return nil, fmt.Errorf("has no context %q", context)
	case in == nil:
		return nil, fmt.Errorf("has no cluster %q", of.Cluster)
	case by == nil:
		return nil, fmt.Errorf("has no user %q", of.User)
	}
	if err := in.check(); err != nil {
		return nil, fmt.Errorf("cluster %q: %w", of.Cluster, err)
	}
	if err := by.check(); err != nil {
		return nil, fmt.Errorf("user %q: %w", of.User, err)
	}
	c := &Config{Server: strings.TrimSuffix(in.Server, "/"), Namespace: cmp.Or(of.Namespace, "default"), serverName: in.ServerName}
	for _, s := range []struct {
		key, path, data string
		into            *source
	}{
		{"certificate-authority", in.CA, in.CAData, &c.ca},
		{"client-certificate", by.Cert, by.CertData, &c.cert},
		{"client-key", by.Key, by.KeyData, &c.key},
	} {
		decoded, err := base64.StdEncoding.DecodeString(s.data)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s-data is not base64", s.key)
		case s.data != "": // which has precedence, as in kubectl
			s.into.data = decoded
		case s.path != "":
			s.into.path = absolute(dir, s.path)
		}
	}
	switch {
	case by.TokenFile != "": // which has precedence, as in kubectl
		c.token.path = absolute(dir, by.TokenFile)
	case by.Token != "":
		c.token.data = []byte(by.Token)
	}
	return c, nil
}

func (c *cluster) check() error {
	server, err := url.Parse(c.Server)
	switch {
	case err != nil || server.Scheme != "https" || server.Host == "" || server.User != nil || server.RawQuery != "" || server.Fragment != "":
		return errors.New("server: must be https://HOST:PORT")
	case c.Insecure:
		return errors.New("insecure-skip-tls-verify would give the keys to anyone: set certificate-authority")
	case c.Proxy != "":
		return errors.New("proxy-url is not supported")
	}
	return nil
}

// instead is advice for ways to log in that need another program or are not safe.
const instead = "use the token of a service account (tokenFile) or a client certificate"

func (u *user) check() error {
	certificate := u.Cert != "" || u.CertData != ""
	switch {
	case u.Exec != nil:
		return errors.New("exec plugins are not supported: " + instead)
	case u.Provider != nil:
		return errors.New("auth-provider is not supported: " + instead)
	case u.Username != "":
		return errors.New("username and password are not supported: " + instead)
	case u.As != "":
		return errors.New("impersonation (as) is not supported: " + instead)
	case certificate != (u.Key != "" || u.KeyData != ""):
		return errors.New("client-certificate and client-key go together")
	case !certificate && u.Token == "" && u.TokenFile == "":
		return errors.New("has no credentials: " + instead)
	}
	return nil
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// tls returns the TLS configuration with the certificates as they are now.
func (c *Config) tls() (*tls.Config, error) {
	server, err := url.Parse(c.Server)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cmp.Or(c.serverName, server.Hostname())}
	if c.ca.given() {
		data, err := c.ca.read(files.MaxPEM)
		if err != nil {
			return nil, err
		}
		certs, err := files.ParseCertificates(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cmp.Or(c.ca.path, "certificate-authority-data"), err)
		}
		config.RootCAs = files.Pool(certs)
	}
	if c.cert.given() {
		cert, err := c.cert.read(files.MaxPEM)
		if err != nil {
			return nil, err
		}
		key, err := c.key.read(files.MaxPEM)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// bearer returns the token as it is now; "" for none.
func (c *Config) bearer() (string, error) {
	if !c.token.given() {
		return "", nil
	}
	data, err := c.token.read(maxToken)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s: must hold a token and nothing else", cmp.Or(c.token.path, "token"))
	}
	return token, nil
}

// explainTLS adds to an error of a certificate what decides about it.
func (c *Config) explainTLS(err error) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w; the certificates to trust are those of %s", err, cmp.Or(c.ca.path, "the kubeconfig"))
	}
	return err
}

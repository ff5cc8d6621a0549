{{- /* The labels that select the pods. */ -}}
{{- define "stockaj.name" -}}
{{- with .Values.selector }}{{ toYaml . }}{{ else }}app.kubernetes.io/name: {{ .Release.Name }}{{ end -}}
{{- end }}

{{- /* The same for `kubectl --selector`. */ -}}
{{- define "stockaj.selector" -}}
{{- $pairs := list -}}
{{- range $name, $value := include "stockaj.name" . | fromYaml }}{{ $pairs = append $pairs (printf "%s=%s" $name $value) }}{{ end -}}
{{- join "," $pairs -}}
{{- end }}

{{- define "stockaj.labels" -}}
app.kubernetes.io/name: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* A duration of gateway.yaml in whole seconds, rounded up. */ -}}
{{- define "stockaj.seconds" -}}
{{- $number := regexFind "^[0-9]+" . | int -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- if eq $unit "ms" }}{{ add (div $number 1000) 1 -}}
{{- else if eq $unit "s" }}{{ $number -}}
{{- else if eq $unit "m" }}{{ mul $number 60 -}}
{{- else if eq $unit "h" }}{{ mul $number 3600 -}}
{{- else }}{{ fail (printf "gateway.configuration: %q is not a duration that this chart can read" .) -}}
{{- end -}}
{{- end }}

{{- /* The port of an address of gateway.yaml. It must be 0.0.0.0, because the kubelet is outside the pod. */ -}}
{{- define "stockaj.port" -}}
{{- if not (hasPrefix "0.0.0.0:" .) }}{{ fail (printf "gateway.configuration: %q must be 0.0.0.0 and a port" .) }}{{ end -}}
{{- trimPrefix "0.0.0.0:" . -}}
{{- end }}

{{- /*
What follows from gateway.yaml, as YAML: the ports, the seconds that the application waits in preStop, those that the gateway
drains, and whether there is a usage ledger.
*/ -}}
{{- define "stockaj.derived" -}}
{{- $configuration := fromYaml .Values.gateway.configuration }}
{{- with $configuration.Error }}{{ fail (printf "gateway.configuration: %s" .) }}{{ end }}
{{- $listen := $configuration.listen | default dict }}
{{- $admin := $configuration.admin | default dict }}
{{- $backend := $configuration.backend | default dict }}
{{- /* `usage: {}` has the default path. */}}
{{- $usage := and (hasKey $configuration "usage") (not (kindIs "invalid" $configuration.usage)) }}
{{- if and $usage (not (hasPrefix "/var/lib/stockaj-gateway/" ($configuration.usage.path | default "/var/lib/stockaj-gateway/"))) }}
{{- fail "gateway.configuration: usage.path must be below /var/lib/stockaj-gateway, where the volume is" }}
{{- end -}}
proxyPort: {{ include "stockaj.port" ($listen.address | default "0.0.0.0:8080") }}
adminPort: {{ include "stockaj.port" ($admin.address | default "127.0.0.1:9090") }}
{{- /* 10 s for the last load balancer to notice, plus backend.timeout and 5 s. */}}
preStop: {{ add 15 (include "stockaj.seconds" ($backend.timeout | default "30s")) }}
drain: {{ add (include "stockaj.seconds" ($listen.drain_delay | default "0s"))
    (include "stockaj.seconds" ($listen.drain_timeout | default "30s")) 5 }}
usage: {{ $usage }}
{{- end }}

{{- /*
The next templates are also for the Deployment of a chart that has this one as a dependency. Their argument is this chart's
context: `.` here, `.Subcharts.stockaj` there.
*/ -}}

{{- /* The gateway as a native sidecar, the first of `initContainers`. */ -}}
{{- define "stockaj-gateway.sidecar" -}}
{{- $derived := include "stockaj.derived" . | fromYaml }}
{{- $proxyPort := $derived.proxyPort | int }}
{{- $adminPort := $derived.adminPort | int -}}
# Its ports are numbers elsewhere, because Kubernetes before 1.32 does not find their names.
- name: gateway
  {{- with .Values.gateway.image }}
  image: {{ printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}
  {{- with .pullPolicy }}
  imagePullPolicy: {{ . }}
  {{- end }}
  {{- end }}
  restartPolicy: Always
  ports:
    - {name: proxy, containerPort: {{ $proxyPort }}}
    - {name: admin, containerPort: {{ $adminPort }}}
  volumeMounts:
    - {name: gateway, mountPath: /etc/stockaj-gateway, readOnly: true}
    {{- if .Values.gateway.secret }}
    - {name: secrets, mountPath: /run/secrets/stockaj-gateway, readOnly: true}
    {{- end }}
    - {name: state, mountPath: /var/lib/stockaj-gateway}
  startupProbe:
    httpGet: {path: /readyz, port: {{ $adminPort }}}
    periodSeconds: 1
    failureThreshold: 30
  readinessProbe:
    httpGet: {path: /readyz, port: {{ $adminPort }}}
    periodSeconds: 5
    timeoutSeconds: 2
  livenessProbe:
    httpGet: {path: /healthz, port: {{ $adminPort }}}
    periodSeconds: 10
    timeoutSeconds: 5
  resources:
    {{- toYaml .Values.gateway.resources | nindent 4 }}
  securityContext:
    {{- if not .Values.stockaj.enabled }}
    # Whatever the pod's own security context is.
    runAsNonRoot: true
    seccompProfile: {type: RuntimeDefault}
    {{- end }}
    runAsUser: 65532
    runAsGroup: 65532
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
{{- end }}

{{- /*
The volumes of the sidecar. `state` has the blocks. A StatefulSet with a claim of that name has it for the usage ledger, too.
*/ -}}
{{- define "stockaj-gateway.volumes" -}}
- name: gateway
  configMap: {name: {{ .Release.Name }}-gateway}
{{- with .Values.gateway.secret }}
- name: secrets
  secret: {secretName: {{ . }}}
{{- end }}
- name: state
  emptyDir: {sizeLimit: 64Mi}
{{- end }}

{{- /* `lifecycle` of the application's container: it waits while the gateway still serves. */ -}}
{{- define "stockaj-gateway.lifecycle" -}}
preStop:
  sleep: {seconds: {{ (include "stockaj.derived" . | fromYaml).preStop | int }}}
{{- end }}

{{- /* `terminationGracePeriodSeconds`: preStop + the application's shutdown + drain_delay + drain_timeout + 5 s. */ -}}
{{- define "stockaj-gateway.gracePeriod" -}}
{{- $derived := include "stockaj.derived" . | fromYaml -}}
{{- add ($derived.preStop | int) .Values.stockaj.shutdown ($derived.drain | int) -}}
{{- end }}

{{- /* The port of the proxy, which a Service has as its `targetPort`. */ -}}
{{- define "stockaj-gateway.port" -}}
{{- (include "stockaj.derived" . | fromYaml).proxyPort | int -}}
{{- end }}

<?php

namespace App;

use Illuminate\Http\Request;
use Illuminate\Http\UploadedFile;
use Illuminate\Support\Arr;
use Symfony\Component\HttpFoundation\Cookie;

/** Writes down what was dispatched, and answers with what it has understood, or as the query asks. */
class Controller
{
    public function __invoke(Request $request)
    {
        $dispatched = [
            'case' => $request->header('X-Case'),
            'verb' => $request->getMethod(),
            'route' => '/'.ltrim($request->route()->uri(), '/'),
            'parameters' => $request->route()->originalParameters(),
            'token' => $request->bearerToken(),
            'cookies' => count($request->cookies),
        ];
        file_put_contents($_SERVER['DISPATCHES'], self::json($dispatched)."\n", FILE_APPEND | LOCK_EX);

        return $this->answer($request, Arr::except($dispatched, 'case'));
    }

    private function answer(Request $request, array $dispatched)
    {
        $understood = $dispatched + [
            'url' => $request->fullUrl(),
            'query' => $request->query(),
            'input' => $request->post(),
            'resources' => $this->included($request),
            'files' => array_map(function (UploadedFile $file) {
                return [$file->getClientOriginalName(), $file->getClientMimeType(), hash_file('sha256', $file)];
            }, $request->allFiles()),
            'type' => $request->header('Content-Type'),
            'content' => hash('sha256', $request->getContent()),
            'told' => array_map(function (string $name) use ($request) {
                return $request->headers->all($name);
            }, ['id' => 'X-Token-Id', 'name' => 'X-Token-Name', 'abilities' => 'X-Token-Abilities', 'workspace' => 'X-Workspace-Id']),
            'accept' => $request->header('Accept'),
            'language' => $request->getLanguages(),
        ];
        switch ($request->query('answer')) {
            case 'status':
                return response(self::json($understood), (int) $request->query('code'))
                    ->header('Content-Type', 'application/json');
            case 'empty':
                return response()->noContent((int) $request->query('code', 204));
            case 'bytes':
                return response(str_repeat('0123456789', (int) $request->query('tens')))
                    ->header('Content-Type', 'application/octet-stream');
            case 'stream':
                return response()->stream(function () {
                    foreach (range(1, 5) as $number) {
                        echo "piece $number\n";
                        flush();
                    }
                }, 200, ['Content-Type' => 'text/plain', 'X-Accel-Buffering' => 'no']);
            case 'file':
                return response()->file(base_path('routes.json'));
            case 'etag':
                $response = response(self::json($understood))->setEtag('v1')->setPublic();
                $response->isNotModified($request);
                return $response;
            case 'redirect':
                return redirect('/api/v2/items?page=2', (int) $request->query('code', 302));
            case 'cookies':
                return response('')->withCookie(Cookie::create('one', '1'))->withCookie(Cookie::create('two', 'a b;c'));
            case 'fields':
                return response('')->withHeaders([
                    'X-RateLimit-Limit' => 60, 'X-RateLimit-Remaining' => 59, 'Link' => '</x>; rel="next"',
                    'Access-Control-Allow-Origin' => '*', 'Content-Language' => 'de', 'Vary' => 'Origin, Accept',
                    'Content-Disposition' => "attachment; filename*=UTF-8''caf%C3%A9.csv", 'X-Empty' => '',
                ]);
        }

        return response(self::json($understood))->header('Content-Type', 'application/json');
    }

    /** The resources that an application returns for `include`, by the names that it reads there. */
    private function included(Request $request): array
    {
        $names = [];
        $include = (array) $request->input('include', []);
        array_walk_recursive($include, function ($value) use (&$names) {
            array_push($names, ...array_map('trim', explode(',', strtolower((string) $value))));
        });
        $resources = [
            'variants' => [['id' => 7, 'size' => '12 m']],
            'renters' => [['id' => 3, 'email' => 'renter@stockaj.example']],
        ];

        return Arr::only($resources, $names);
    }

    private static function json(array $value)
    {
        return json_encode($value, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE);
    }
}
